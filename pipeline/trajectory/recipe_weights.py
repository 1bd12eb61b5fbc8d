"""The weights of a recipe or a checkpoint folder by name, each tensor computed as it is asked for.

The arithmetic is that of `combine` (fp32, from deltas, rounded once), so a recipe's weights are the
same to the bit as those of the folder that would have been written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pipeline.errors import PipelineError
from pipeline.trajectory import tying
from pipeline.trajectory.align import align
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.layouts import hf, open_checkpoint
from pipeline.trajectory.plan import DTYPES
from pipeline.trajectory.reader import Reader
from pipeline.trajectory.recipe import Recipe
from pipeline.trajectory.shards import Files
from pipeline.trajectory.stream import loaded, pieces

NamedTensors = Iterator[tuple[str, torch.Tensor]]


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


def open_folders(recipe: Recipe) -> list[Checkpoint]:
    """The checkpoints of a recipe, with the same tensors each: their headers.

    Raises:
        PipelineError: a damaged one, or one that holds other tensors than the first.
    """
    given = None if recipe.base is None else open_checkpoint(0, recipe.base)
    found = [
        open_checkpoint(index, folder, given, recipe.matching)
        for index, folder in enumerate(recipe.folders)
        if folder != recipe.base
    ]
    if given is None:
        return align(found, recipe.matching)
    base, *later = align([given, *found], recipe.matching)
    rest = iter(later)
    return [base if folder == recipe.base else next(rest) for folder in recipe.folders]


def has_own_head(source: Path | Recipe) -> bool:
    """Whether a model's head is a tensor of its own, by what is stored of it.

    Raises:
        PipelineError: see `open_folders`.
    """
    if isinstance(source, Recipe):
        entries = open_folders(source)[-1].entries
    else:
        entries = open_checkpoint(0, source).entries
    return tying.has_own_head(entries)


class RecipeWeights:
    """The tensors of an extrapolated model by name, each computed when it is asked for.

    A context manager: it holds the checkpoints' files open.

    Attributes:
        entries: names, shapes and dtypes as the last checkpoint has them.
        own_head: whether the head is a tensor of its own.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._dtype = DTYPES[recipe.dtype]
        checkpoints = open_folders(recipe)
        last = checkpoints[-1]
        self.entries = last.entries
        self.own_head = tying.has_own_head(last.entries)
        self._copied = {
            name
            for name, entry in last.entries.items()
            if not entry.is_float or name in last.fixed or last.kept.get(name) == 0
        }
        self._files = Files()
        self._reader = Reader(checkpoints, self._files)

    def __enter__(self) -> RecipeWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.__exit__()

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor, on the CPU.

        Raises:
            PipelineError: NaN or infinity in an input or the result; coefficients of another number
                than the checkpoints.
        """
        entry = self.entries[name]
        held = any(fnmatchcase(name, glob) for glob in self._recipe.hold)
        if held or name in self._copied:
            tensor = _stored(self._files, entry)
        else:
            tensor = _sum(self._reader, entry, _row(self._recipe, name), self._dtype)
        return tensor.view(entry.shape)


def recipe_tensors(recipe: Recipe) -> NamedTensors:
    """(name, CPU tensor) of every tensor of an extrapolated model, computed one at a time.

    Raises:
        PipelineError: the checkpoints hold different tensors, or the number of coefficients is
            not that of the folders.
    """
    with RecipeWeights(recipe) as weights:
        for name in weights.entries:
            yield name, weights.read(name)


def _sum(reader: Reader, entry: Entry, row: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """θ0 + Σ c_i δ_i of a whole tensor [n], by the kernel that writes folders."""
    from pipeline.trajectory.kernels import combine  # numba: engines that need none load without

    out = torch.empty(entry.numel, dtype=dtype if dtype == torch.bfloat16 else torch.float32)
    array = (out.view(torch.uint16) if dtype == torch.bfloat16 else out).numpy()
    coefficients = np.asarray([row], np.float32)
    for piece in pieces([entry]):
        values = reader.read(piece)
        part = array[None, piece.start : piece.stop]
        if not combine(values.array, values.movements, coefficients, part):
            reader.blame(piece)
            raise PipelineError(
                f"tensor {entry.name} overflows {dtype}; choose a nearer target or a wider dtype"
            )
    return out.to(dtype)


def _stored(files: Files, entry: Entry) -> torch.Tensor:
    """A whole tensor in its own dtype [n], to the bit where its bytes are stored as such."""
    out = torch.empty(entry.numel, dtype=entry.dtype)
    if entry.plain:
        files.read(entry, 0, entry.numel, out)
        return out
    for piece, part in loaded(files, entry):
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
