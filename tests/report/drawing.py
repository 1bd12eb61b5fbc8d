"""How much of a page's figures a test draws: all of them in both themes take most of its time.

The shared page (`finished_run`) has every figure in both. What a test changes is drawn again in one
theme, as the other differs in colours alone; a test of the words draws nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from matplotlib.image import imsave

from pipeline.report.figures import LIGHT, Theme
from pipeline.report.html import Album

Draw = Callable[[Path, Theme], Path]


@contextmanager
def light_only() -> Iterator[None]:
    """Every dark figure is a copy of the light one, drawn just before it."""

    def copied(draw: Draw, path: Path, theme: Theme) -> Path:
        if theme is LIGHT:
            return draw(path, theme)
        return Path(shutil.copy(path.with_name(path.name.replace("-dark.png", ".png")), path))

    with _drawn_by(copied):
        yield


@contextmanager
def undrawn() -> Iterator[None]:
    """Every figure is one pixel; the page and the files beside it are as ever."""

    def pixel(draw: Draw, path: Path, theme: Theme) -> Path:
        imsave(path, np.zeros((1, 1, 3)))
        return path

    with _drawn_by(pixel):
        yield


@contextmanager
def _drawn_by(pen: Callable[[Draw, Path, Theme], Path]) -> Iterator[None]:
    real = Album.figure

    def figure(album: Album, name: str, draw: Draw, *words: str, **more: str) -> object:
        return real(album, name, lambda path, theme: pen(draw, path, theme), *words, **more)

    with mock.patch.object(Album, "figure", figure):
        yield
