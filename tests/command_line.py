"""The command line inside this process: for the many mistakes that end before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from hydra.core.global_hydra import GlobalHydra

import pipeline.__main__ as entry
from pipeline.ending import TRACEBACK

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """A function from arguments to the one line that they end in, with exit code 1."""

    def run(*arguments: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["pipeline", *arguments])
            patch.setattr(entry, "_composed", False)
            patch.setenv("HYDRA_FULL_ERROR", "")
            patch.delenv(TRACEBACK, raising=False)
            GlobalHydra.instance().clear()
            with pytest.raises(SystemExit) as ended:
                entry.main()
        out, err = capsys.readouterr()
        assert ended.value.code == 1, err
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return run
