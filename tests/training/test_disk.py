"""Faults caught: a run that fills the disk although the plan said that it fits: checkpoints, of
which there are up to three at once, are several times the size of a snapshot."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.training import disk
from pipeline.training.schema import RegroundConfig
from pipeline.training.worker import run
from tests.training.pico import changed, compute, rl_spec, weights
from tests.training.test_spec import as_config


def written(checkpoint: Path, base: Path) -> float:
    """Bytes of a checkpoint's tensors over the number of weights."""
    kinds = (".safetensors", ".pt")
    size = sum(f.stat().st_size for f in checkpoint.rglob("*") if f.suffix in kinds)
    return size / sum(tensor.numel() for tensor in weights(base).values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd"},
        {"reground": RegroundConfig(every=2, jump=1, momentum=0.5), "checkpoint_every": 3},
    ],
)
def test_a_checkpoint_takes_what_the_plan_says(
    base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = rl_spec(tmp_path, base, **{"steps": 3, "checkpoint_every": 1, **changes})
    run(spec)
    found = written(tmp_path / "checkpoints/checkpoint-6", base)
    assert found == pytest.approx(disk.checkpoint_width(as_config(spec)), rel=0.2)


def test_the_plan_counts_three_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rl_spec(tmp_path, tmp_path, steps=8, snapshot_every=4, snapshot_dtype="delta_bfloat16")
    config = as_config(spec)
    config.model.parameters = 1e9
    usage = namedtuple("usage", "total used free")
    for free, fits in ((41e9, True), (39e9, False)):  # 2 snapshots of 2 GB, 3 checkpoints of 12
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(0, 0, free))
        if fits:
            words = disk.training_disk(config, tmp_path / "rl_train")
            assert "up to 3 checkpoints of 12 GB = 36 GB" in words
            continue
        with pytest.raises(PipelineError, match=r"3 checkpoints take 40 GB, .* has 39 GB free"):
            disk.training_disk(config, tmp_path / "rl_train")
        config.dry_run = True
        assert "has 39 GB free" in disk.training_disk(config, tmp_path / "rl_train")
    config.compute = compute(launcher="torchrun", zero_stage=2, bf16=True)
    assert disk.checkpoint_width(config) == 2 + 2 + 4 + 8
    assert disk.checkpoint_width(as_config(changed(spec, optimizer="sgd"))) == 4
