"""One training step at the published size: peak memory and seconds, beside the estimate.

python -m tests.gpu.published_step OUT.json --rows 1 [--tiny]

What rl_train does with a micro-batch: a model of 28 layers made here (random weights), ZeRO-2 and
bf16 under DeepSpeed as the trainers configure it, gradient checkpointing, TRL's fused head, 18,432
tokens a row, AdamW. Two steps; the second is timed. Without DeepSpeed it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.config import ModelConfig
from pipeline.estimates.memory import Training, activations, states
from pipeline.estimates.shape import Shape
from pipeline.tasks.task import TaskConfig
from pipeline.training.devices import deepspeed_config
from pipeline.training.schema import AlgorithmConfig, ComputeConfig, RlConfig
from pipeline.training.spec import RlSpec

PUBLISHED = Shape(
    layers=28, hidden=1536, intermediate=8960, heads=12, kv_heads=2, vocab=151936, bias=True
)
TINY = Shape(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, vocab=500, bias=True)


def build(shape: Shape, device: torch.device) -> Any:
    """The model on its device in bf16, as the trainer has it."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=shape.tied,
    )
    with device:
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def spec_of(rows: int) -> RlSpec:
    """As much of a run as the trainers' DeepSpeed configuration depends on."""
    algorithm = AlgorithmConfig(
        name="grpo", prompts_per_step=rows, rollouts_per_prompt=1, micro_batch=rows
    )
    compute = ComputeConfig(name="one", processes=1, zero_stage=2, bf16=True)
    run = RlConfig(steps=1, snapshot_every=1, checkpoint_every=1)
    model, task = ModelConfig(name="published"), TaskConfig(name="none", kind="none")
    return RlSpec("unused", task, model, algorithm, run, compute)


def step(engine: Any, ids: torch.Tensor, mask: torch.Tensor) -> float:
    """Seconds of a forward pass, a backward pass and an update."""
    start = time.monotonic()
    labels = ids.masked_fill(mask == 0, -100)
    made = engine(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    engine.backward(-made.log_probs.mean())
    engine.step()
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.monotonic() - start


def main() -> None:
    import deepspeed

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    shape, tokens = (TINY, 64) if options.tiny else (PUBLISHED, 18_432)
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({**ranks, "MASTER_PORT": "0"})
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    meeting = options.out.with_suffix(".meeting").absolute().as_uri()
    backend = "nccl" if cuda else "gloo"
    torch.distributed.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
    torch.manual_seed(0)
    model = build(shape, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(spec_of(options.rows))
    )
    ids = torch.randint(shape.vocab, (options.rows, tokens), device=device)
    mask = torch.ones_like(ids)
    mask[0, : tokens // 9] = 0  # the shortest prompt
    step(engine, ids, mask)
    seconds = step(engine, ids, mask)
    run = Training(options.rows, tokens, zero_stage=2, bf16=True, checkpointing=True, cuda=cuda)
    parts = {**states(shape.parameters, run), "activations": activations(shape, run)}
    found = {
        "seconds": seconds,
        "tokens_per_second": options.rows * tokens / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
        "estimated_gib": sum(parts.values()) / 2**30,
        "parts_gib": {name: round(part / 2**30, 3) for name, part in parts.items()},
    }
    options.out.write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
