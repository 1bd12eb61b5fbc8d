"""Where the benchmark files lie; tests that need them are skipped where they are absent."""

import os
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks.sandbox import check_bwrap

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = Path(os.environ.get("PIPELINE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark files in {folder} (set PIPELINE_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def bwrap() -> str:
    try:
        return check_bwrap().program
    except PipelineError as error:
        pytest.skip(str(error))
