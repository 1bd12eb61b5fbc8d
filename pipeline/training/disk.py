"""What a training run takes on the disk, before it starts.

Bytes a weight of a checkpoint, as the installed versions write it (tests measure it):

- the model, in the precision of the passes under ZeRO, else fp32;
- under ZeRO 1 and 2 DeepSpeed's own copy of it;
- under ZeRO the fp32 master weights;
- the optimiser's moments, fp32;
- of re-grounding the segment's start and middle, and with momentum the velocity, fp32.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError

KEPT = 3  # checkpoints at once: the last two, and the one that is being written
MOMENTS = {"adamw_torch": 2, "adamw_torch_fused": 2, "adagrad": 1, "rmsprop": 1}  # the others: 0


def checkpoint_width(config: PipelineConfig) -> int:
    """Bytes a weight of one checkpoint of `rl_train`."""
    compute, jumps = config.compute, config.rl_train.reground
    sharded = compute.zero_stage > 0
    model = 2 if sharded and compute.bf16 else 4
    copies = 2 if sharded and compute.zero_stage < 3 else 1
    width = model * copies + 4 * sharded + 4 * MOMENTS.get(config.algorithm.optimizer, 0)
    if jumps.every is not None:
        width += 4 * (2 + (jumps.momentum > 0))
    return width


def training_disk(config: PipelineConfig, folder: Path) -> str:
    """What snapshots and checkpoints take, in words, where the size of the model is known.

    Args:
        folder: of the stage; a run that has begun there holds some of it already.

    Raises:
        PipelineError: the disk has less (in a dry run it is only said).
    """
    parameters, rl = config.model.parameters, config.rl_train
    if parameters is None:
        return ""
    snapshots = rl.steps // rl.snapshot_every
    size = parameters * (4 if rl.snapshot_dtype.endswith("float32") else 2) / 1e9
    checkpoint = parameters * checkpoint_width(config) / 1e9
    kept = min(KEPT, rl.steps // rl.checkpoint_every)
    total = snapshots * size + kept * checkpoint
    words = f" of {size:.3g} GB = {snapshots * size:.4g} GB"
    if kept:
        words += f", up to {kept} checkpoints of {checkpoint:.3g} GB = {kept * checkpoint:.4g} GB"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if total > free and not folder.exists():
        if not config.dry_run:
            raise PipelineError(
                f"rl_train: {snapshots} snapshots and {kept} checkpoints take {total:.4g} GB, "
                f"{existing} has {free:.4g} GB free; choose another run.dir, or raise "
                "rl_train.snapshot_every"
            )
        words += f" ({existing} has {free:.4g} GB free)"
    return words
