"""Rollouts by vLLM: inside the trainer, on CUDA or on the CPU, or by a running server.

TRL's own wiring is kept (`VLLMGeneration`); what differs is what it leaves to chance or to CUDA:

- The engine computes in the trainer's precision and holds no more than prompt and response.
- It draws from numbers that come from the trainer's generator, seeded by the run's seed and the
  rank and kept in every checkpoint: runs of other seeds draw other numbers, a resumed run the same
  ones. TRL seeds the engine by the rank alone, and that seed overwrites the trainer's.
- On the CPU vLLM has packed its matrices and takes new ones whole (`reload_weights`) instead of
  parameter by parameter. A head tied to the embedding is packed again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch._dynamo.config

from pipeline.errors import PipelineError
from pipeline.inference.vllm.engine import import_vllm
from pipeline.training.check import engine_tokens
from pipeline.training.schema import ComputeConfig
from pipeline.training.spec import RlSpec
from pipeline.training.trl_trainers import vllm_generation, with_vllm

BATCHED_TOKENS = 4096  # of a pass of the engine's, as TRL has it


class Rollouts(vllm_generation.VLLMGeneration):
    """TRL's interface to vLLM, with the changes above.

    Attributes:
        drawn: log-probs of the last responses' tokens, as the engine drew them.
    """

    def __init__(self, compute: ComputeConfig, max_model_len: int, **arguments: Any) -> None:
        self.compute = compute
        self.cuda = torch.cuda.is_available()
        self.drawn: list[list[float]] = []
        inside = compute.vllm_host is None
        super().__init__(
            mode="colocate" if inside else "server",
            server_host=compute.vllm_host or "",
            server_port=compute.vllm_port,
            group_port=compute.vllm_group_port,
            tensor_parallel_size=compute.vllm_tensor_parallel,
            gpu_memory_utilization=compute.vllm_memory,
            max_model_length=max_model_len,
            enable_sleep_mode=compute.vllm_sleep and self.cuda,
            **arguments,
        )

    def _init_vllm(self) -> None:
        """Start the engine as TRL does, with arguments that TRL does not pass on."""
        module: Any = vllm_generation
        given = module.LLM
        # the engine lives in this process, which need not be the only one of its run
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        module.LLM = partial(_start, given, _engine_arguments(self.compute, self.cuda))
        try:
            with _random_state_kept():
                super()._init_vllm()
        finally:
            module.LLM = given

    def sync_weights(self) -> None:
        """Give the engine the trainer's weights."""
        if self.cuda or self.mode == "server":
            super().sync_weights()
            return
        from pipeline.inference.vllm.worker import refresh_heads

        worker = self.llm.llm_engine.model_executor.driver_worker
        dtype = worker.model_runner.model_config.dtype
        # copies: vLLM collects a layer's tensors, and ZeRO 3 takes them back one by one
        weights = ((n, p.detach().to(dtype, copy=True)) for n, p in self._iter_named_params())
        worker.reload_weights(weights_iterator=weights)
        refresh_heads(worker.model_runner.get_model())
        self.llm.reset_prefix_cache()

    def generate(self, *arguments: Any, **options: Any) -> tuple[Any, ...]:
        """TRL's, with the engine seeded from the trainer's generator."""
        from vllm.utils.torch_utils import set_random_seed

        seed = self._agreed(int(torch.randint(2**31, ())))
        with _random_state_kept():
            set_random_seed(seed)
            made: tuple[Any, ...] = super().generate(*arguments, **options)
        self.drawn = [[token[0] for token in row] for row in made[2]]
        return made

    def _agreed(self, seed: int) -> int:
        """Processes that share an engine draw the same: the number of the first of them."""
        if self.mode == "server" or self.tensor_parallel_size == 1:
            return seed
        seeds = [seed] * self.tensor_parallel_size
        torch.distributed.all_gather_object(seeds, seed, group=self.tp_group)
        return seeds[0]


def serve_by_vllm(trainer: Any, spec: RlSpec) -> None:
    """Let a TRL trainer, built without vLLM, take its rollouts from there.

    Raises:
        PipelineError: the model has no room for prompt and response, or heads that vLLM does not
            know, or there is no vLLM.
    """
    import_vllm()
    with_vllm()
    if spec.algorithm.lora.rank and not torch.cuda.is_available():
        raise PipelineError(
            "compute.vllm_rollouts: vLLM on the CPU does not take adapters from the trainer; set "
            "it to false"
        )
    args, room = trainer.args, engine_tokens(spec)
    longest = getattr(trainer.model.config, "max_position_embeddings", None)
    if longest is not None and args.max_completion_length >= longest:
        raise PipelineError(
            f"algorithm.max_response_tokens={args.max_completion_length}: the model has "
            f"{longest} positions for prompt and response; lower it"
        )
    _check_heads(trainer.model.config)
    trainer.vllm_generation = Rollouts(
        spec.compute,
        min(room, longest or room),
        model=trainer.model,
        accelerator=trainer.accelerator,
        processing_class=trainer.processing_class,
        max_num_seqs=_at_once(
            args.per_device_train_batch_size * args.steps_per_generation, spec.compute
        ),
        trust_remote_code=spec.model.trust_remote_code,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        max_completion_length=args.max_completion_length,
        logprobs=0,
    )
    trainer.use_vllm = True
    trainer.vllm_mode = trainer.vllm_generation.mode
    trainer._last_loaded_step = -1  # TRL's note of which weights the engine has: none yet


def _at_once(rows: int, compute: ComputeConfig) -> int:
    """Responses that an engine draws at once: all of its ranks', of `rows` each, as far as a pass
    takes a token of each (vLLM refuses to start with more)."""
    return min(rows * compute.vllm_tensor_parallel, BATCHED_TOKENS)


def seed_rank(trainer: Any, seed: int) -> None:
    """Seed this process by the run's seed and its rank. (TRL takes their sum: rank 1 of one run
    would draw what rank 0 of the next one does.)"""
    rank = trainer.accelerator.process_index
    state = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def _check_heads(config: Any) -> None:
    """vLLM's attention on the CPU knows some widths of heads, and dies of others at the first
    token."""
    if torch.cuda.is_available():
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    known = CPUAttentionBackend.get_supported_head_sizes()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width not in known:
        raise PipelineError(
            f"compute.vllm_rollouts: on the CPU vLLM has no attention for heads of {width} (only "
            f"{', '.join(map(str, known))}); set it to false"
        )


def _start(start: Any, ours: dict[str, Any], **theirs: Any) -> Any:
    return start(**{**theirs, **ours})


def _engine_arguments(compute: ComputeConfig, cuda: bool) -> dict[str, Any]:
    """Arguments of `vllm.LLM` that TRL does not pass on."""
    from pipeline.inference.device import vllm_settings

    settings = vllm_settings(
        torch.device("cuda" if cuda else "cpu"),
        threads=None,
        tensor_parallel=1,
        kv_cache_gib=compute.vllm_kv_cache_gib,
        gpu_memory_utilization=compute.vllm_memory,
        enforce_eager=not cuda,
    )
    os.environ.update(settings.environment)
    arguments = {"dtype": "bfloat16" if compute.bf16 else "float32", **settings.arguments}
    if cuda:
        # TRL writes new weights into the tensors that vLLM holds. Of a mixture of experts those are
        # in the order of the kernels: Triton's alone is that of a checkpoint, where FlashInfer's
        # (vLLM's own choice on an A100 or a B200) would take gates for values without a word.
        return {**arguments, "moe_backend": "triton"}
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # its threads are the trainer's
    torch._dynamo.config.disable = True  # vLLM would compile small functions, see `vllm.cpu`
    return {**arguments, "max_num_batched_tokens": BATCHED_TOKENS}


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave this process's generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
