"""HF model folders, as transformers, TRL, verl's merged copies and OpenRLHF's `_hf` folders have.

safetensors or torch `.bin`, single or sharded with an index; the model may lie below the
checkpoint, where verl and others put it. What is read is what `from_pretrained` reads; a folder
of which other engines would read something else (a single file beside shards) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipeline.artifacts import read_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Found
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.pickles import Opaque, Stored, load_records
from pipeline.trajectory.shards import Files, read_header

MODEL_FOLDERS = (".", "actor/huggingface", "huggingface", "hf_model", "actor/hf_model")
# Classes that hold values which are not read: sharded, quantised, sparse, on the meta device.
TENSOR_CLASS = re.compile(r"(torch|bitsandbytes|numpy)(?!\.device$|\.version)")
SAMPLE = 4096  # values of each tensor by which two models are told apart
Reader = Callable[[Path], dict[str, Entry]]


def find(source: Path) -> list[Path]:
    """`source` and the folders below it where trainers put models: those with a model's files."""
    return [folder for inner in MODEL_FOLDERS if _formats(folder := source / inner)]


def _formats(folder: Path) -> list[tuple[str, str, str, Reader]]:
    """(layout, stem, suffix, reader) of the formats that `folder` has files of, preferred first."""
    known = (
        ("safetensors", "model", ".safetensors", read_header),
        ("torch bin", "pytorch_model", ".bin", read_bin),
    )
    return [
        (layout, stem, suffix, reader)
        for layout, stem, suffix, reader in known
        if _is_there(folder / f"{stem}{suffix}")
        or _is_there(folder / f"{stem}{suffix}.index.json")
        or _numbered(folder, stem, suffix)
    ]


def _is_there(path: Path) -> bool:
    """A file, or a link that leads nowhere: to be named by what reads it."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _numbered(folder: Path, stem: str, suffix: str) -> dict[int, list[str]]:
    """Names of the shards `stem-i-of-n`, by n."""
    sets: dict[int, list[str]] = {}
    for path in sorted(folder.glob(f"{stem}-*-of-*{suffix}")):
        match = re.fullmatch(rf"{stem}-\d+-of-(\d+){re.escape(suffix)}", path.name)
        if match is not None:
            sets.setdefault(int(match[1]), []).append(path.name)
    return sets


def weight_paths(folder: Path) -> list[Path]:
    """The files of the model in `folder`: one, or the shards that the index names.

    Raises:
        PipelineError: the files leave open which are meant.
    """
    _, stem, suffix, reader = _formats(folder)[0]
    single, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
    sets = _numbered(folder, stem, suffix)
    named = set(_weight_map(index).values()) if _is_there(index) else set()
    if _is_there(single):
        other = named - {single.name} or {name for names in sets.values() for name in names}
        if other and not (named and alike(reader(single), _read_sharded(index, reader))):
            raise PipelineError(
                f"{folder}: {single.name} beside the shards {_range(other)}: two models in one "
                "folder; remove the one that is not meant"
            )
        return [single]
    if not named:
        found = " and ".join(_range(set(names)) for _, names in sorted(sets.items()))
        raise PipelineError(
            f"{folder}: shards without {index.name} ({found}); copy the index of the set that is "
            "meant here as well"
        )
    return [folder / name for name in sorted(named)]


def _range(names: set[str]) -> str:
    first, *rest = sorted(names)
    return f"{first} ... {rest[-1]}" if rest else first


def read(folder: Path) -> Found:
    """The model in `folder`.

    Raises:
        PipelineError: a shard is missing or truncated, index and shards disagree, no tensors.
    """
    layout, stem, suffix, reader = _formats(folder)[0]
    paths = weight_paths(folder)
    index = folder / f"{stem}{suffix}.index.json"
    if paths == [folder / f"{stem}{suffix}"]:
        entries = reader(paths[0])
    else:
        entries = _read_sharded(index, reader)
    if not entries:
        raise PipelineError(f"{paths[0]}: no tensors in it; save the model again, or copy it again")
    return Found(layout, folder, entries)


def _weight_map(index: Path) -> dict[str, str]:
    value = read_json(index)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise PipelineError(f"{index}: no weight_map in it; copy it again")
    return weight_map


def _read_sharded(index: Path, reader: Reader) -> dict[str, Entry]:
    """The tensors of several files, each from the one that the index names.

    Raises:
        PipelineError: a shard is missing or truncated, or index and shards disagree.
    """
    shards = {name: index.parent / file for name, file in _weight_map(index).items()}
    entries: dict[str, Entry] = {}
    for path in sorted(set(shards.values())):
        for name, entry in reader(path).items():
            if name not in shards:
                raise PipelineError(f"{path}: tensor {name} is not in the index")
            if shards[name] != path:
                raise PipelineError(
                    f"{path}: tensor {name} lies in {shards[name].name} by the index; the shards "
                    "are of several saves: copy them and the index again"
                )
            entries[name] = entry
    for name, path in shards.items():
        if name not in entries:
            raise PipelineError(f"{path}: tensor {name} is missing, the index names it")
    return entries


def read_bin(path: Path) -> dict[str, Entry]:
    """The tensors of one torch file with a flat state dict; nothing in it is executed.

    Raises:
        PipelineError: no flat state dict, or an entry that is no plain tensor.
    """
    records = load_records(path)
    if not isinstance(records, dict):
        raise PipelineError(f"{path}: not a state dict; save the model with save_pretrained")
    for key, value in records.items():
        if isinstance(value, dict) and any(isinstance(v, Stored) for v in value.values()):
            raise PipelineError(
                f"{path}: tensors lie under {key!r}, not in a flat state dict; save the model with "
                "save_pretrained"
            )
        if isinstance(value, Opaque) and TENSOR_CLASS.match(value.name):
            raise PipelineError(
                f"{path}: {key} is stored as {value.name}, not as a plain tensor; save the whole "
                "model, gathered, on the CPU and not quantised, with save_pretrained"
            )
    return {str(n): r.entry(str(n)) for n, r in records.items() if isinstance(r, Stored)}


def alike(first: Mapping[str, Entry], second: Mapping[str, Entry]) -> bool:
    """True if two models are the same as far as the beginning of every tensor tells, up to
    rounding to the narrower of their dtypes."""
    if first.keys() != second.keys():
        return False
    with Files() as files:
        for name, entry in first.items():
            other = second[name]
            narrow = min(entry.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
            ours, theirs = (_beginning(files, e).to(narrow) for e in (entry, other))
            if entry.shape != other.shape or not torch.equal(ours, theirs):
                return False
    return True


def _beginning(files: Files, entry: Entry) -> torch.Tensor:
    values = torch.empty(min(entry.numel, SAMPLE), dtype=entry.dtype)
    files.read(entry, 0, len(values), values)
    return values
