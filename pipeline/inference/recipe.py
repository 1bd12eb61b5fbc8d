"""Weights that exist as a formula: θ0 + Σ c_i (θ_i - θ0), built in memory from checkpoint folders.

An engine loads a recipe as readily as a folder, so a sweep over horizons writes no model to disk.
The arithmetic is that of `trajectory.combine` (fp32, from deltas, rounded once), so the weights
are the same to the bit as those of the folder it would have written. A recipe of one folder is
that checkpoint itself: so engines load what is stored as a delta, an adapter or shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pipeline.errors import PipelineError
from pipeline.inference.device import parse_dtype
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.layouts import hf, open_checkpoint
from pipeline.trajectory.reader import Reader
from pipeline.trajectory.shards import Entry, Files
from pipeline.trajectory.stream import PIECE, pieces

NamedTensors = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Recipe:
    """An extrapolated model.

    Attributes:
        folders: the checkpoints that a method uses, θ0 first.
        coefficients: c of each folder (c[0] counts for nothing: δ0 = 0); for methods whose c
            differs by tensor, a mapping from tensor name to such a list.
        hold: globs of tensor names copied from the last folder instead.
        dtype: the sum is rounded to it, as when a folder is written.
        base: the model that training started from, where folders are no models of their own.
    """

    folders: tuple[Path, ...]
    coefficients: Sequence[float] | Mapping[str, Sequence[float]]
    hold: tuple[str, ...] = ("*norm*",)
    dtype: str = "bfloat16"
    base: Path | None = None

    @property
    def model(self) -> Path:
        """The folder with the configuration and tokenizer, which also loads as a model."""
        return self.folders[-1] if self.base is None else self.base

    def __str__(self) -> str:
        return " + ".join(str(folder) for folder in self.folders)

    def to_plain(self) -> dict[str, Any]:
        """As lists, numbers and strings, for another process."""
        coefficients: Any = self.coefficients
        if isinstance(coefficients, Mapping):
            plain: Any = {name: [float(c) for c in row] for name, row in coefficients.items()}
        else:
            plain = [float(c) for c in coefficients]
        return {
            "folders": [str(folder) for folder in self.folders],
            "coefficients": plain,
            "hold": list(self.hold),
            "dtype": self.dtype,
            "base": None if self.base is None else str(self.base),
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Recipe:
        """The opposite of `to_plain`."""
        base = plain.get("base")
        return Recipe(
            tuple(Path(folder) for folder in plain["folders"]),
            plain["coefficients"],
            tuple(plain["hold"]),
            plain["dtype"],
            None if base is None else Path(base),
        )


def checkpoint_tensors(folder: Path) -> NamedTensors:
    """(name, CPU tensor) of every tensor of a checkpoint folder, of the files that are its model's.

    Raises:
        PipelineError: no safetensors in it, or a damaged file.
    """
    paths = hf.weight_paths(folder) if folder in hf.find(folder) else []
    if not paths or paths[0].suffix != ".safetensors":
        raise PipelineError(f"{folder}: no *.safetensors files; save the model as safetensors")
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise PipelineError(f"{path}: damaged ({error}); copy it again") from None


def open_folders(folders: Sequence[Path], base: Path | None) -> list[Checkpoint]:
    """The checkpoints of a recipe: their headers.

    Raises:
        PipelineError: a damaged one, or one that holds other tensors than the first.
    """
    given = None if base is None else open_checkpoint(0, base)
    found = [open_checkpoint(index, folder, given) for index, folder in enumerate(folders)]
    for checkpoint in found:
        odd = sorted(checkpoint.entries.keys() ^ found[0].entries.keys())
        if odd:
            raise PipelineError(
                f"{checkpoint.source}: tensor {odd[0]} is not in all checkpoints of the run"
            )
    return found


def recipe_tensors(recipe: Recipe) -> NamedTensors:
    """(name, CPU tensor) of every tensor of an extrapolated model, computed one at a time.

    Raises:
        PipelineError: the checkpoints hold different tensors, or the number of coefficients is
            not that of the folders.
    """
    dtype = parse_dtype(recipe.dtype)
    checkpoints = open_folders(recipe.folders, recipe.base)
    with Files() as files:
        reader = Reader(checkpoints, files)
        for name, entry in checkpoints[-1].entries.items():
            if any(fnmatchcase(name, glob) for glob in recipe.hold) or not entry.is_float:
                tensor = _stored(files, entry)
            else:
                tensor = _sum(reader, entry, _row(recipe, name), dtype)
            yield name, tensor.view(entry.shape)


def _sum(reader: Reader, entry: Entry, row: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """θ0 + Σ c_i δ_i of a whole tensor [n], by the kernel that writes folders."""
    from pipeline.trajectory.kernels import combine  # numba: engines that need none load without

    out = torch.empty(entry.numel, dtype=dtype if dtype == torch.bfloat16 else torch.float32)
    array = (out.view(torch.uint16) if dtype == torch.bfloat16 else out).numpy()
    coefficients = np.asarray([row], np.float32)
    ungated, unmeasured = np.empty(0, np.float32), np.empty((0, 0))
    for piece in pieces([entry]):
        values = reader.read(piece)
        part = array[None, piece.start : piece.stop]
        _, finite = combine(values.array, values.movements, coefficients, ungated, part, unmeasured)
        if not finite:
            reader.blame(piece)
            raise PipelineError(
                f"tensor {entry.name} overflows {dtype}; choose a nearer target or a wider dtype"
            )
    return out.to(dtype)


def _stored(files: Files, entry: Entry) -> torch.Tensor:
    """A whole tensor in its own dtype [n], to the bit where its bytes are stored as such."""
    out = torch.empty(entry.numel, dtype=entry.dtype)
    if entry.shift is None:
        files.read(entry, 0, entry.numel, out)
        return out
    values, raw = torch.empty(PIECE), torch.empty(PIECE * 8, dtype=torch.uint8)
    for piece in pieces([entry]):
        part = values[: len(piece)]
        files.load(entry, piece.start, piece.stop, part, raw)
        out[piece.start : piece.stop] = part
    return out


def _row(recipe: Recipe, name: str) -> Sequence[float]:
    coefficients = recipe.coefficients
    row = coefficients[name] if isinstance(coefficients, Mapping) else coefficients
    if len(row) != len(recipe.folders):
        raise PipelineError(
            f"{name}: {len(row)} coefficients for {len(recipe.folders)} checkpoints"
        )
    return row
