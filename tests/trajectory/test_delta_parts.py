"""Delta snapshots in the files of several ranks. Would catch parts put together in the order of
the files, a file that was not copied, and parts of another cut taken for a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.export import export
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.layouts.delta import (
    finish_parts,
    stream_delta_part,
    stream_delta_snapshot,
)
from pipeline.trajectory.layouts.delta_parts import INDEX, part_name
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import discover
from tests.trajectory.pico import Tensors, load_model, random_tensors, write_model

WORLD = 3
Cut = list[dict[str, tuple[int, int]]]


def cut_like_zero(weights: Tensors, seed: int) -> Cut:
    """All tensors end to end, cut in three at arbitrary elements: (first, number) by rank."""
    total = sum(t.numel() for t in weights.values())
    rng = torch.Generator().manual_seed(seed)
    places = sorted(torch.randint(total + 1, (WORLD - 1,), generator=rng).tolist())
    bounds = [0, *places, total]
    found: Cut = [{} for _ in range(WORLD)]
    begin = 0
    for name, tensor in weights.items():
        end = begin + tensor.numel()
        for rank in range(WORLD):
            low, high = max(begin, bounds[rank]), min(end, bounds[rank + 1])
            if low < high:
                found[rank][name] = (low - begin, high - low)
        begin = end
    return found


def write_parts(folder: Path, base: Checkpoint, weights: Tensors, cut: Cut) -> Path:
    folder.mkdir(parents=True)
    for rank, mine in enumerate(cut):
        parts = ((n, s, weights[n].flatten()[s : s + size]) for n, (s, size) in mine.items())
        sizes = {name: size for name, (_, size) in mine.items()}
        stream_delta_part(folder, part_name(rank, WORLD), base, sizes, parts)
    starts = {
        part_name(rank, WORLD): {name: start for name, (start, _) in mine.items()}
        for rank, mine in enumerate(cut)
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    finish_parts(folder, base, 4, shapes, starts)
    return folder


def values(checkpoint: Checkpoint) -> Tensors:
    found = {}
    with Files() as files:
        for name, entry in checkpoint.entries.items():
            out = torch.empty(entry.numel)
            files.load(entry, 0, entry.numel, out)
            found[name] = out.view(entry.shape)
    return found


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(0, write_model(tmp_path / "base", random_tensors(0)))


@pytest.fixture
def moved(base: Checkpoint) -> Tensors:
    step = random_tensors(7, scale=1e-3)
    return {name: tensor + step[name] for name, tensor in values(base).items()}


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_the_snapshot_of_one_process(
    tmp_path: Path, base: Checkpoint, moved: Tensors, seed: int
) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in moved.items()}
    whole = tmp_path / "whole/step_4"
    stream_delta_snapshot(whole, base, 4, shapes, moved.items())
    parts = write_parts(tmp_path / "parts/step_4", base, moved, cut_like_zero(moved, seed))
    assert not list(parts.glob(".*"))
    one, two = (values(open_checkpoint(4, folder, base)) for folder in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    out = []
    for folder in (whole, parts):
        run = discover(folder.parent, base.folder)
        out.append(folder.parent / "export")
        export(run, 4, out[-1], "float32")
    exported = [load_model(folder) for folder in out]
    assert all(torch.equal(tensor, exported[1][name]) for name, tensor in exported[0].items())


def lose(folder: Path) -> None:
    (folder / part_name(1, WORLD)).unlink()


def shorten(folder: Path) -> None:
    path = folder / part_name(0, WORLD)
    path.write_bytes(path.read_bytes()[:-2])


def rename(folder: Path) -> None:
    """Another run's file of the same name."""
    path = folder / part_name(2, WORLD)
    save_file({"else": next(iter(load_file(path).values()))}, path)


def shift(folder: Path) -> None:
    edit(folder, lambda index: bump(index, 1))


def overlap(folder: Path) -> None:
    edit(folder, lambda index: bump(index, -1))


def drop(folder: Path) -> None:
    edit(folder, lambda index: index["parts"].popitem())


def forget(folder: Path) -> None:
    edit(folder, lambda index: index.pop("shapes"))


def garble(folder: Path) -> None:
    edit(folder, lambda index: index.update(parts=[1, 2]))


def bump(index: dict[str, Any], by: int) -> None:
    """The second half of a tensor that was cut, `by` elements on."""
    starts, name = next(
        (starts, name) for starts in index["parts"].values() for name in starts if starts[name]
    )
    starts[name] += by


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose, "no such file; copy the missing shard"),
        (shorten, "truncated"),
        (rename, "holds other tensors than"),
        (shift, "the parts hold"),
        (overlap, "the parts hold"),
        (drop, "the parts hold"),
        (forget, "no index of a snapshot"),
        (garble, "no index of a snapshot"),
    ],
)
def test_parts_that_are_not_the_snapshot_are_refused(
    tmp_path: Path,
    base: Checkpoint,
    moved: Tensors,
    damage: Callable[[Path], None],
    said: str,
) -> None:
    folder = write_parts(tmp_path / "run/step_4", base, moved, cut_like_zero(moved, 0))
    damage(folder)
    with pytest.raises(PipelineError, match=said):
        open_checkpoint(4, folder, base)


def test_a_snapshot_with_a_missing_part_is_not_finished(
    tmp_path: Path, base: Checkpoint, moved: Tensors
) -> None:
    """Catches ranks that write to disks of their own."""
    cut = cut_like_zero(moved, 0)
    folder = write_parts(tmp_path / "run/step_4", base, moved, cut)
    (folder / "delta.json").unlink()
    lose(folder)
    starts = {part_name(r, WORLD): {n: s for n, (s, _) in m.items()} for r, m in enumerate(cut)}
    shapes = {name: tuple(tensor.shape) for name, tensor in moved.items()}
    with pytest.raises(PipelineError, match=f"{part_name(1, WORLD)}: .*all nodes share"):
        finish_parts(folder, base, 4, shapes, starts)
    assert not (folder / "delta.json").exists()
