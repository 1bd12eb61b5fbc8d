"""The draw of a token on vLLM's CPU backend, and the sum of several models' logits."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipeline.inference.device import ADAPT, OURS, VLLMSettings, vllm_settings
from pipeline.inference.vllm.cpu import BLOCK, PROVIDER, ROWS, draw, kernel_rounds


@pytest.mark.parametrize("vocabulary", [20, BLOCK, 2 * BLOCK, 2 * BLOCK + 44])
def test_tokens_follow_the_softmax(vocabulary: int) -> None:
    """A block's probability taken for its neighbour's, or the rest behind the last one lost."""
    torch.manual_seed(0)
    logits = torch.randn(vocabulary) * 2
    logits[torch.arange(0, vocabulary, 3)] = -torch.inf
    rows, times = 10 * ROWS + 3, 200
    made = torch.cat([draw(logits.expand(rows, -1))[0] for _ in range(times)])
    wanted = logits.double().softmax(0) * rows * times
    counts = torch.bincount(made, minlength=vocabulary).double()
    assert counts[wanted == 0].sum() == 0
    large = wanted >= 5
    degrees = int(large.sum()) - 1
    statistic = ((counts - wanted)[large] ** 2 / wanted[large]).sum()
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5 + 10


def test_rows_are_drawn_apart() -> None:
    """One random number for all rows, or a token given to another row."""
    torch.manual_seed(0)
    made, logprobs = draw(torch.zeros(5 * ROWS, 3 * BLOCK))
    assert len(set(made.tolist())) > 3 * ROWS
    torch.testing.assert_close(logprobs, torch.full((5 * ROWS,), -math.log(3 * BLOCK)))
    logits = torch.randn(2 * ROWS + 1, BLOCK + 9)
    tokens, logprobs = draw(logits)
    torch.testing.assert_close(logprobs, logits.log_softmax(1).gather(1, tokens[:, None])[:, 0])
    certain = torch.full((3 * ROWS, 1000), -torch.inf)
    wanted = torch.arange(3 * ROWS) * 20
    certain[torch.arange(3 * ROWS), wanted] = 0.0
    assert draw(certain)[0].equal(wanted)


@pytest.mark.parametrize("place", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval(monkeypatch: pytest.MonkeyPatch, place: float) -> None:
    """A forbidden token that is drawn once in many millions of times, where sums are rounded."""

    def same(*size: int, **options: Any) -> torch.Tensor:
        return torch.full(size, place, **options)

    logits = torch.randn(7, 5 * BLOCK + 9, generator=torch.Generator().manual_seed(0))
    logits[:, :300] = logits[:, -300:] = -torch.inf
    monkeypatch.setattr(torch, "rand", same)
    allowed = range(300, logits.shape[1] - 300)
    assert set(draw(logits)[0].tolist()) == {allowed[0] if place == 0 else allowed[-1]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_logits(dtype: torch.dtype) -> None:
    """Rows left out between two chunks, sums in bfloat16, a model that is not exact at its end."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from pipeline.inference.vllm.mixture import CPU_ROWS, mix

    first, second = torch.randn(2, 2 * CPU_ROWS + 5, 70).to(dtype)
    assert mix([first, second], [1.0, 0.0]).equal(first.float())
    assert mix([first, second], [0.0, 1.0]).equal(second.float())
    wanted = first.double() + 1.5 * (second.double() - first.double())
    torch.testing.assert_close(mix([first, second], [-0.5, 1.5]), wanted.float())


def test_a_members_states_are_copied_before_the_next_one_runs() -> None:
    """Hidden states of the first member with the second one's work over them: CUDA graphs share one
    pool of memory, and vLLM gives the output of a member's last one back to it. Here both members
    answer in the same memory."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from pipeline.inference.vllm.mixture import LogitExtrapolatedForCausalLM

    shared, tokens = torch.zeros(5, 3), torch.arange(5)

    class Member(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
            return shared.copy_((ids + 1)[:, None] * self.factor)

    mixture: Any = LogitExtrapolatedForCausalLM.__new__(LogitExtrapolatedForCausalLM)
    torch.nn.Module.__init__(mixture)
    mixture.names = ["one", "two", "three"]
    mixture.one, mixture.two, mixture.three = Member(1.0), Member(10.0), Member(100.0)
    wanted = (tokens + 1)[:, None] * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(3)
    assert mixture(tokens, tokens).equal(wanted)


@pytest.fixture
def norms() -> Iterator[Any]:
    """vLLM's operations with our order of implementations, as in a worker."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm import ir
    from vllm.platforms import current_platform

    from pipeline.inference.vllm.cpu import adapt

    if not current_platform.is_cpu():
        pytest.skip("vLLM is built for another device")
    adapt()
    config: Any = None
    with current_platform.get_default_ir_op_priority(config).set_priority():
        yield ir.ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 64), (33, 576), (5, 3, 32)])
def test_norms_equal_vllms_own(norms: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A residual that is not added or not handed on, a weight left out, bf16 cut off instead of
    rounded (vLLM's kernels without AVX-512)."""
    torch.manual_seed(0)
    x, residual, weight = torch.randn(shape), torch.randn(shape), torch.rand(shape[-1])
    x, residual, weight = x.to(dtype), residual.to(dtype), weight.to(dtype)
    tolerance: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-6 if dtype == torch.float32 else 2**-6}
    provider = PROVIDER if dtype == torch.float32 or kernel_rounds() else "native"
    assert norms.rms_norm.dispatch(x, weight, 1e-5).provider == provider
    wanted = norms.rms_norm.impls["native"].impl_fn(x, weight, 1e-5)
    torch.testing.assert_close(norms.rms_norm(x, weight, 1e-5), wanted, **tolerance)
    both = norms.fused_add_rms_norm
    assert both.dispatch(x, residual, weight, 1e-5).provider == provider
    wanted, total = both.impls["native"].impl_fn(x, residual, weight, 1e-5)
    found, found_total = both.maybe_inplace(x.clone(), residual.clone(), weight, 1e-5)
    torch.testing.assert_close(found, wanted, **tolerance)
    assert found_total.equal(total)


def test_norms_of_rows_that_lie_apart(norms: Any) -> None:
    """vLLM's kernel reads over the gaps between the rows and says nothing."""
    fused = torch.randn(7, 960)
    queries, weight = fused[:, :576].view(7, 9, 64), torch.rand(64)
    native = norms.rms_norm.impls["native"].impl_fn
    for x, w, size in ((queries, weight, None), (fused, torch.rand(960), 64)):
        assert norms.rms_norm.dispatch(x, w, 1e-5, size).provider == "native"
        assert norms.rms_norm(x, w, 1e-5, size).equal(native(x, w, 1e-5, size))
    whole = queries.contiguous()
    for x, residual in ((queries, whole), (whole, queries)):
        assert norms.fused_add_rms_norm.dispatch(x, residual, weight, 1e-5).provider == "native"


def test_a_worker_starts_beside_numba() -> None:
    """vLLM's workers die of an object of llvmlite's if numba was imported before them."""
    script = (
        "import sys, pipeline.inference.interface; assert 'numba' not in sys.modules\n"
        "import pipeline.trajectory.kernels, llvmlite.binding.ffi as ffi\n"
        "from pipeline.inference.vllm.plugin import register\n"
        "assert hasattr(ffi.lib, '__dict__')\n"
        "register()\n"
        "assert not hasattr(ffi.lib, '__dict__')\n"
        "from pipeline.trajectory import kernels; import numpy as np\n"
        "kernels.moments(np.ones((2, 5), np.float32), True, np.zeros((2, 2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_user_can_have_vllm_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that is read too late, or also drops the binding to cores."""

    def settings() -> VLLMSettings:
        return vllm_settings(
            torch.device("cpu"),
            threads=1,
            tensor_parallel=1,
            kv_cache_gib=1.0,
            gpu_memory_utilization=0.9,
            enforce_eager=True,
        )

    monkeypatch.delenv(ADAPT, raising=False)
    assert settings().environment[ADAPT] == "1"
    assert "block_size" in settings().arguments
    monkeypatch.setenv(ADAPT, "0")
    assert settings().environment.keys() == {OURS, "VLLM_CPU_OMP_THREADS_BIND"}
    assert "block_size" not in settings().arguments
