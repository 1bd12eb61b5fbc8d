"""Extrapolate reinforcement-learning training runs of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.errors import PipelineError
    from pipeline.library import discover, extrapolate, linearity

__version__ = "0.1.0"
__all__ = ["PipelineError", "discover", "extrapolate", "linearity"]


def __getattr__(name: str) -> Any:
    """The library's names, imported at their first use: the command line needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline import library

    return getattr(library, name)
