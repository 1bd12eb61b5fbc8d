"""A script: DeepSpeed's own checkpoints of a small model, by stage, from launches of 1 and 2 ranks.

ROOT/RANKS/checkpoint-STAGE. Every rank is a fork of this process, so the library is imported once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path


def run_rank(root: Path, rank: int, world: int) -> None:
    """Train for one step and save, at each stage."""
    import deepspeed
    import torch
    from torch.nn import LayerNorm, Linear, Sequential

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    store = f"file://{root}/store-{world}"
    deepspeed.init_distributed(
        "gloo", auto_mpi_discovery=False, init_method=store, rank=rank, world_size=world
    )
    for stage in (1, 2, 3):
        torch.manual_seed(world)
        model = Sequential(Linear(5, 7), LayerNorm(7), Linear(7, 3, bias=False))
        model.register_buffer("counts", torch.arange(4))
        model[2].weight.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": trained[:1]}, {"params": trained[1:]}]
        config = {
            "train_micro_batch_size_per_gpu": 2,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": stage},
            "zero_force_ds_cpu_optimizer": False,
        }
        optimizer = torch.optim.Adam(groups, lr=0.1)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        engine.backward(engine(torch.randn(2, 5, dtype=torch.bfloat16)).square().mean())
        engine.step()
        folder = root / str(world) / f"checkpoint-{stage}"
        engine.save_checkpoint(str(folder), tag=f"global_step{stage}")


def main() -> None:
    import deepspeed  # noqa: F401  before the forks

    fork = multiprocessing.get_context("fork")
    root = Path(sys.argv[1])
    ranks = [(rank, world) for world in (1, 2) for rank in range(world)]
    children = [fork.Process(target=run_rank, args=(root, *rank)) for rank in ranks]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        child.kill()  # one that waits for a rank that failed
    sys.exit(max(abs(child.exitcode or 0) for child in children))


if __name__ == "__main__":
    main()
