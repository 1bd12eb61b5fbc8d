"""Compile kernels at their first call, and keep the machine code for later processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile at the first call, without the GIL; machine code is kept for later processes."""
    options |= {"nogil": True, "error_model": "numpy"}  # a check for x / 0 would cost the vectors
    kernel = njit(function, **options)
    with suppress(RuntimeError):  # neither the package's folder nor the user's can be written
        kernel._cache = _Store(function)
    return kernel


class _Store(FunctionCache):
    """Numba's store of machine code, as `cache=True` opens it. It only saves time, so a full disk
    or a damaged file there costs that time again, and not the run.

    Kernels call those of other files, which are compiled into them: so what is stored is of one
    state of all files of the folder, where Numba would see a change of the kernel's own alone.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = _stamp()

    def load_overload(self, signature: Any, target: Any) -> Any:
        """As Numba's own, less what only a compiler needs: it would import all that Numba can
        compile, scipy's linear algebra among it, which takes longer than a small model's work."""
        rtsys.initialize(target)
        try:
            return self._load_overload(signature, target)
        except (OSError, EOFError, UnpicklingError):
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        with suppress(OSError, EOFError, UnpicklingError):
            super().save_overload(signature, compiled)


@cache
def _stamp() -> tuple[tuple[str, float, int], ...]:
    """Name, time and size of every file with kernels."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((f.name, f.stat().st_mtime, f.stat().st_size) for f in files)
