"""What vLLM needs to be told so that a CPU's time goes into the model.

Four habits of vLLM 0.31 that do not matter on a GPU's host cost much on a few cores, and have no
setting:

- A process that waits for another spins for a second before it sleeps. The model's threads hold
  every core, so the engine's process takes time from them throughout each step.
- A token is drawn by dividing every probability by an exponential number of its own: vocabulary x
  batch random numbers a step, on one thread. One number a response does: the place at which the
  running sum of the probabilities passes it. Its log-prob is that probability's logarithm: no
  other token's is formed, and it is not ranked.
- RMS norms are six torch operations each, though vLLM has a CPU kernel for them (used here where
  it rounds: `kernel_rounds`).
- Small functions go through torch.compile also where the model does not. That takes a C++ compiler,
  without which the engine dies at its first token or score, and time where there is one.

`adapt` changes this in the processes of our own engines (`device.ADAPT` in their environment, read
by the plugin); a vLLM that is started otherwise is left as it is.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
from functools import partial
from typing import Any

import torch

IDLE_AFTER = 0.001  # seconds that a waiting process spins before it sleeps
ROWS = 16  # drawn at once: small enough for the cache
PROVIDER = "cpu_kernel"  # name of the norms' kernels in vLLM's list of implementations
BLOCK = 256  # tokens whose probability is summed before the draw looks inside


@torch.inference_mode()
def draw(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens from softmax(logits), fp32 [rows, vocabulary].

    One uniform number a row, from torch's global generator; never a token of probability 0.

    Returns:
        Tokens int64 [rows] and the logarithms of their probabilities, fp32 [rows].
    """
    parts = [_draw_rows(part.softmax(dim=-1, dtype=torch.float32)) for part in logits.split(ROWS)]
    tokens, probabilities = (torch.cat(part) for part in zip(*parts, strict=True))
    return tokens, probabilities.log()


def _draw_rows(probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First the block of tokens, by its probability, then the token in it by its own.

    Returns:
        Tokens [rows], and the probability of each.
    """
    rows, vocabulary = probabilities.shape
    even = vocabulary - vocabulary % BLOCK
    blocks = probabilities[:, :even].view(rows, -1, BLOCK).sum(dim=-1)
    if even < vocabulary:
        rest = probabilities[:, even:].sum(dim=-1, keepdim=True)
        blocks = torch.cat([blocks, rest], dim=-1)
    places = torch.rand(rows, 1, dtype=torch.float64, device=probabilities.device)
    block, places = _pick(blocks, places)
    tokens = block * BLOCK + torch.arange(BLOCK, device=probabilities.device)
    inside = probabilities.gather(1, tokens.clamp_max(vocabulary - 1))
    token, _ = _pick(inside.masked_fill_(tokens >= vocabulary, 0.0), places)
    return (block * BLOCK + token)[:, 0], inside.gather(1, token)[:, 0]


def _pick(weights: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The entry of each row on which the place falls, and how far into the entry it falls.

    Args:
        weights: [rows, entries], not negative, some positive in each row.
        places: fp64 [rows, 1], uniform in [0, 1); so is the second result, given the first.
    """
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    total = sums[:, -1:].contiguous()
    # strictly below the total, also when the product is rounded: no entry of weight 0 is picked
    target = torch.minimum(places * total, torch.nextafter(total, torch.zeros_like(total)))
    # NaN logits find no entry: any token will do, as in vLLM
    entry = torch.searchsorted(sums, target, right=True).clamp_max_(weights.shape[1] - 1)
    weight = weights.gather(1, entry).double()
    into = (target - sums.gather(1, entry) + weight).div_(weight).clamp_(0.0, 1.0)
    return entry, into


@functools.lru_cache(maxsize=1)
def kernel_rounds() -> bool:
    """Whether vLLM's CPU kernels round to bf16. Without AVX-512 they cut the last bits off, which
    shrinks every value that passes through by half a bit."""
    from vllm import ir

    add = ir.ops.fused_add_rms_norm.impls["vllm_c"].impl_fn
    one, weight = torch.ones(1, 64, dtype=torch.bfloat16), torch.ones(64, dtype=torch.bfloat16)
    _, total = add(one.clone(), one * 1.5 * 2.0**-8, weight, 1e-5)
    return bool((total > 1).all())


def _fits(weight: torch.Tensor | None, variance_size: int | None, *rows: torch.Tensor) -> bool:
    """Whether vLLM's CPU kernel norms `rows` rightly: it takes them to lie one after the other,
    also where they do not (the queries inside a fused projection), and says nothing."""
    same = weight is not None and all(x.dtype == weight.dtype for x in rows)
    plain = same and variance_size is None and all(x.is_contiguous() for x in rows)
    return plain and (rows[0].dtype == torch.float32 or kernel_rounds())


def _fits_one(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _fits(weight, variance_size, x)


def _fits_two(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return _fits(weight, variance_size, x, x_residual)


def _use_norm_kernels() -> None:
    """Let RMS norms use the kernel that vLLM asks for on GPUs only, and has for the CPU, too.

    It rounds once, after the weight; the torch operations round before the weight as well. In fp32
    both agree to the last bits.
    """
    import vllm.kernels  # noqa: F401  (registers it)
    from vllm import ir
    from vllm.config.kernel import IrOpPriorityConfig
    from vllm.platforms.cpu import CpuPlatform

    for op, fits in ((ir.ops.rms_norm, _fits_one), (ir.ops.fused_add_rms_norm, _fits_two)):
        kernel = op.impls["vllm_c"]
        op.register_impl(PROVIDER, supports_args=fits, inplace=kernel.inplace)(kernel.impl_fn)
    first = [PROVIDER, "native"]
    order = IrOpPriorityConfig.with_default(["native"], rms_norm=first, fused_add_rms_norm=first)
    platform: Any = CpuPlatform
    platform.get_default_ir_op_priority = classmethod(lambda cls, config: copy.deepcopy(order))


def adapt() -> None:
    """Change this process's vLLM (again and again does no harm)."""
    import torch._dynamo.config
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.outputs import LogprobsTensors
    from vllm.v1.sample import sampler
    from vllm.v1.sample.ops import topk_topp_sampler

    broadcast: Any = shm_broadcast
    draws: Any = topk_topp_sampler.TopKTopPSampler
    whole: Any = sampler.Sampler
    if isinstance(broadcast.SpinCondition, partial):
        return
    broadcast.SpinCondition = partial(broadcast.SpinCondition, busy_loop_s=IDLE_AFTER)
    forward, gather = draws.forward_cpu, whole.gather_logprobs

    def forward_cpu(self: Any, logits: Any, generators: Any, k: Any, p: Any) -> Any:
        if generators or self.use_fp64_gumbel or self.logprobs_mode == "processed_logits":
            return forward(self, logits, generators, k, p)
        tokens, logprobs = draw(topk_topp_sampler.apply_top_k_top_p(logits, k, p))
        processed = self.logprobs_mode == "processed_logprobs"
        return tokens, logprobs[:, None] if processed else None

    def gather_logprobs(logprobs: Any, num_logprobs: int, token_ids: Any) -> Any:
        """The log-probs that `forward_cpu` has found already are the drawn tokens'."""
        if logprobs.shape[1] > 1:
            return gather(logprobs, num_logprobs, token_ids)
        ids, ranks = token_ids[:, None].to(torch.int32), torch.zeros_like(token_ids)
        return LogprobsTensors(ids, logprobs, ranks)

    draws.forward_cpu = forward_cpu
    whole.gather_logprobs = staticmethod(gather_logprobs)
    _use_norm_kernels()
    if multiprocessing.parent_process() is not None:  # vLLM's process, not the one that asked
        torch._dynamo.config.disable = True
