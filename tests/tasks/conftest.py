"""What the machine has to offer; tests that need it are skipped where it is absent."""

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks.sandbox import check_bwrap


@pytest.fixture(scope="session")
def bwrap() -> str:
    try:
        return check_bwrap().program
    except PipelineError as error:
        pytest.skip(str(error))
