"""Folders for libraries that take their names for patterns.

vLLM looks for weights, and transformers for DeepSpeed's parts of a checkpoint, by `glob` on the
whole path: a folder `run[1]` would then seem empty. A link of a plain name leads to the same place.
"""

from __future__ import annotations

import atexit
import functools
import glob
import shutil
import tempfile
from pathlib import Path


@functools.cache
def _links() -> Path:
    """A temporary folder for links; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="links-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def plain_path(folder: Path) -> Path:
    """`folder`, or a link to it where its path would be taken for a pattern."""
    if glob.escape(str(folder)) == str(folder):
        return folder
    names = list(_links().iterdir())
    link = next((n for n in names if n.readlink() == folder.absolute()), None)
    if link is None:
        link = _links() / f"{len(names)}"
        link.symlink_to(folder.absolute(), target_is_directory=True)
    return link
