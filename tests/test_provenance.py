"""What done.json says of the code, and what asking for it may not cost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import provenance


def test_a_git_that_does_not_answer_costs_nothing_but_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a stage of hours that is lost to a slow file system, a lock that a killed `git
    status` leaves in the user's repository, and a git that is not there."""
    git = tmp_path / "git"
    git.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    git.write_text('#!/bin/sh\necho "$@"\n')
    assert "--no-optional-locks" in str(provenance.git_commit())
    git.write_text("#!/bin/sh\nexit 128\n")
    assert provenance.git_commit() is None
    git.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(provenance, "PATIENCE", 0.1)
    assert provenance.git_commit() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert provenance.git_commit() is None
