"""Faults caught: a machine that lacks a GPU or a package that the run needs, found after hours, and
engines that are more or fewer than the GPUs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.estimates import sampling
from pipeline.inference import options
from pipeline.stages import linear_probe, rl_train
from tests.stages.contexts import context_of

RANKS = {"compute__launcher": "torchrun", "compute__processes": 8}


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in (rl_train, options):
        monkeypatch.setattr(module, "gpus", lambda: count)


@pytest.mark.parametrize(
    ("visible", "tensor_parallel", "engines"),
    [(0, 1, 1), (1, 1, 1), (8, 1, 8), (8, 2, 4), (4, 3, 1)],
)
def test_engines_are_as_many_as_the_gpus_are_enough_for(
    pico_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: int,
    tensor_parallel: int,
    engines: int,
) -> None:
    with_gpus(monkeypatch, visible)
    values = {"engine__name": "vllm", "engine__tensor_parallel": tensor_parallel}
    assert context_of(pico_run, **values, engine__replicas=None).engine.replicas == engines


def test_more_engines_than_gpus_are_refused_in_the_plan(
    pico_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe for eight GPUs on a node of four; with none visible they run on the CPU."""
    context = context_of(pico_run, engine__replicas=8)
    with_gpus(monkeypatch, 4)
    with pytest.raises(PipelineError, match=r"engine\.replicas=8: .* need 8, 4 are visible"):
        context.engine.check()
    with_gpus(monkeypatch, 0)
    assert context.engine.check() == "8 hf engines"


def test_more_ranks_than_gpus_are_refused_in_the_plan(
    pico_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 4)
    with pytest.raises(PipelineError, match=r"compute\.processes=8: 4 GPUs are visible"):
        rl_train.plan(context_of(pico_run, **RANKS))
    assert "4 GPUs are visible" in rl_train.plan(context_of(pico_run, **RANKS, dry_run=True))
    with_gpus(monkeypatch, 0)
    assert "visible" not in rl_train.plan(context_of(pico_run, **RANKS))


def test_models_that_a_gpu_has_no_room_for_are_refused_in_the_plan(
    pico_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 B parameters twice in fp32 on 80 GB: found after the log-probs of all checkpoints."""
    context = context_of(pico_run)
    wanted = sampling.hidden_states(context)
    assert wanted is not None
    monkeypatch.setattr(linear_probe, "gpu_memory", lambda: int(wanted) - 1)
    with pytest.raises(PipelineError, match=r"set linear_probe\.activations=false"):
        linear_probe.plan(context)
    linear_probe.plan(context_of(pico_run, linear_probe__activations=False))
    linear_probe.plan(context_of(pico_run, dry_run=True))  # it may be of another machine
    for room in (0, int(wanted)):
        monkeypatch.setattr(linear_probe, "gpu_memory", lambda room=room: room)
        linear_probe.plan(context)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) for name in ("flash_attn", "kernels")), reason="it is here"
)
def test_flash_attention_that_is_not_installed(pico_run: Path) -> None:
    flash = {"model__attention": "flash_attention_2"}
    with pytest.raises(PipelineError, match="flash-attn is not installed"):
        rl_train.plan(context_of(pico_run, **flash))
    assert "flash-attn is not installed" in rl_train.plan(
        context_of(pico_run, **flash, dry_run=True)
    )
