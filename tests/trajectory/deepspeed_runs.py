"""A script: DeepSpeed's own checkpoints of a small model, by stage, from launches of 1 and 2 ranks.

ROOT/RANKS/checkpoint-STAGE; of stage 1 with fp32 gradients, which has files of its own that
DeepSpeed's script cannot read, checkpoint-1-fp32 and the master weights beside it. Every rank is a
fork of this process, so the library is imported once.
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
    from deepspeed.utils import safe_get_full_fp32_param
    from safetensors.torch import save_file
    from torch.nn import LayerNorm, Linear, Sequential

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    store = f"file://{root}/store-{world}"
    deepspeed.init_distributed(
        "gloo", auto_mpi_discovery=False, init_method=store, rank=rank, world_size=world
    )
    for stage, gradients in ((1, "bf16"), (2, "bf16"), (3, "bf16"), (1, "fp32")):
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
            "data_types": {"grad_accum_dtype": gradients},
            "zero_force_ds_cpu_optimizer": False,
        }
        optimizer = torch.optim.Adam(groups, lr=0.1)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        engine.backward(engine(torch.randn(2, 5, dtype=torch.bfloat16)).square().mean())
        engine.step()
        suffix = "" if gradients == "bf16" else f"-{gradients}"
        folder = root / str(world) / f"checkpoint-{stage}{suffix}"
        engine.save_checkpoint(str(folder), tag=f"global_step{stage}")
        if suffix:
            masters = {n: safe_get_full_fp32_param(p) for n, p in model.named_parameters()}
            masters = {n: value.clone() for n, value in masters.items() if value is not None}
            if rank == 0:
                save_file(masters, folder.with_suffix(".safetensors"))


def main() -> None:
    import deepspeed  # before the forks

    # Compiled on first use, behind a lock that a killed process leaves for ever; gloo does it too.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
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
