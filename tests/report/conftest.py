"""One finished run with its page, shared by the tests that only look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.page import write_page
from tests.conftest import made_once

from .synthetic import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with every artefact and its report; not to be changed."""
    return made_once(tmp_path_factory, "finished", lambda folder: write_page(write_run(folder)))
