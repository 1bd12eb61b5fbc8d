"""Faults caught: a dry run without a number that decides whether a run fits, numbers of another
unit, and a throughput that the user states and nobody reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.artifacts import write_json
from pipeline.checks import check
from pipeline.config import CONF, PipelineConfig
from pipeline.errors import PipelineError
from pipeline.estimates.memory import Training, host_states, states
from pipeline.estimates.setting import setting_of
from pipeline.estimates.shape import Shape, shape_of
from pipeline.estimates.speed import Read, Speed, decoding_seconds, pass_flops, training_seconds
from pipeline.estimates.words import duration, number, size
from pipeline.records import load_stage
from pipeline.stages.base import Context
from pipeline.tracking import Tracker
from pipeline.trajectory.share import Share
from tests.inference.pico import save_tokenizer
from tests.test_configs import composed

SHAPE = Shape(layers=2, hidden=8, intermediate=16, heads=2, kv_heads=1, vocab=10)


def plan(config: PipelineConfig, stage: str, folder: Path) -> str:
    context = Context(config, folder, Tracker(folder, "x", {}, config.tracking), Share())
    return load_stage(stage).plan(context)


def published(*overrides: str) -> PipelineConfig:
    given = ["dry_run=true", "tracking.mode=disabled", "estimates.device=h100"]
    return composed("+experiment=qwen_math", *given, *overrides)


def test_the_published_run_by_part(tmp_path: Path) -> None:
    """ZeRO-2 over 8 ranks, by hand: 1.777 G weights in bf16; 4 and 12 bytes of an eighth of them;
    two buckets of 5e8 numbers in bf16. vLLM's 0.6 of 80 GB less the weights is cache."""
    words = plan(published(), "rl_train", tmp_path)
    parts = "parameters 3.55 GB, gradients 889 MB, optimizer 2.67 GB, buffers 2 GB, activations"
    assert parts in words
    assert "48 GB of 80 GB: parameters 3.55 GB, KV cache 44.4 GB" in words
    assert "tokens: 33.6 M a step, 47 G in all" in words


@pytest.mark.parametrize("stage", ["snapshot", "linear_probe", "weight_extrap", "logit_extrap"])
@pytest.mark.parametrize("dry", [True, False])
def test_estimates_are_of_a_dry_run(stage: str, dry: bool, tmp_path: Path) -> None:
    config = composed("+experiment=tiny", "tracking.mode=disabled", f"dry_run={dry}")
    words = plan(config, stage, tmp_path)
    for part in ("memory", "disk", "tokens", "time"):
        assert bool(re.search(rf"\b{part}\b", words.partition("\n")[2])) == dry, part


def test_a_stated_throughput_is_used(tmp_path: Path) -> None:
    def updates(*overrides: str) -> str:
        (words,) = re.findall(
            r"updates ([^)]*)\)", plan(published(*overrides), "rl_train", tmp_path)
        )
        return str(words)

    assert updates() == updates("estimates.tflops=989", "estimates.utilisation=0.27")
    slow, fast = updates("estimates.tflops=197.8").split(), updates().split()
    assert slow[1] == fast[1] == "min"
    assert float(slow[0]) == pytest.approx(5 * float(fast[0]), rel=0.01)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    assert "more than there is" not in plan(published(), "rl_train", tmp_path)
    words = plan(published("estimates.memory_gb=16"), "rl_train", tmp_path)
    assert "of 16 GB (more than there is)" in words


def test_wrong_shapes_and_devices_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"estimates\.device: 'h10'"):
        setting_of(published("estimates.device=h10"), None)
    config = published("model.shape.heads=0")
    with pytest.raises(PipelineError, match="heads"):
        shape_of(config.model, None)
    config = published("+model.shape.head=3")
    with pytest.raises(PipelineError, match=r"model\.shape: unknown key 'head'"):
        shape_of(config.model, None)
    with pytest.raises(PipelineError, match=r"estimates\.decoding"):
        check(published("estimates.decoding=1.5"))


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda p: p.stem)
def test_shapes_in_the_configuration_have_as_many_weights_as_stated(path: Path) -> None:
    model = composed(f"model={path.stem}").model
    if model.shape:
        shape = shape_of(model, None)
        assert shape is not None
        assert shape.parameters == pytest.approx(model.parameters, rel=0.005)


def test_zero_divides_what_it_says_and_offload_moves_it() -> None:
    held = {
        stage: states(1e9, Training(1, 1, ranks=4, zero_stage=stage, bf16=True))
        for stage in (1, 2, 3)
    }
    assert [held[s]["parameters"] for s in (1, 2, 3)] == [2e9, 2e9, 0.5e9]
    assert [held[s]["gradients"] for s in (1, 2, 3)] == [4e9, 1e9, 1e9]
    assert {held[s]["optimizer"] for s in (1, 2, 3)} == {3e9}
    offloaded = Training(1, 1, ranks=4, zero_stage=2, bf16=True, offload=True)
    assert states(1e9, offloaded)["optimizer"] == 0
    assert host_states(1e9, offloaded) == 4e9  # masters, moments and gradients: 16 bytes, a quarter


def test_adapters_alone_have_gradients_and_moments() -> None:
    """Rank 3 on q (8 + 8) and down (16 + 8), two layers."""
    assert SHAPE.adapter_parameters(3, ["q_proj", "down_proj"]) == 2 * 3 * (16 + 24)
    assert SHAPE.adapter_parameters(0, ["all-linear"]) == 0
    held = states(1e9, Training(1, 1, adapters=1e6))
    assert [held[part] for part in ("parameters", "gradients", "optimizer")] == [4.004e9, 4e6, 8e6]


def test_supervised_training_draws_nothing(tmp_path: Path) -> None:
    given = ("+experiment=tiny", "algorithm=sft", "dry_run=true", "tracking.mode=disabled")
    words = plan(composed(*given), "rl_train", tmp_path)
    assert "memory a device, training" in words
    assert "rollouts" not in words.partition("\n")[2]


def test_times_by_hand() -> None:
    speed = Speed(flops=1e6, bandwidth=1e3, disk=1.0)
    # two layers, two heads of 4: 2 x 2 x 2 x 4 = 32 FLOP a token and position, over half of them
    assert pass_flops(100, SHAPE, 10, 20) == 10 * (200 + 32 * 20)
    assert training_seconds(1e6, False, speed, 2) == 1.5
    assert training_seconds(1e6, True, speed, 2) == 2.0
    # 6 sequences, 3 at once: 2 x 5 positions, each reads 200 bytes and 3 caches of 2 x 2 x 4 x 2
    # bytes for 0 + 2.5 tokens
    made = decoding_seconds(Read.of([(100, SHAPE)], 2), (6.0, 3, 0.0, 5.0), speed)
    assert made == pytest.approx(10 * (200 + 3 * 32 * 2.5) / 1e3)


def test_units() -> None:
    assert [size(x) for x in (1500, 2e6, 3.56e9, 2e12)] == ["1.5 kB", "2 MB", "3.56 GB", "2 TB"]
    assert [number(x) for x in (12, 1792, 33.6e6, 47e9)] == ["12", "1.79 k", "33.6 M", "47 G"]
    assert [duration(x) for x in (0.093, 59, 90, 7200)] == ["0.093 s", "59 s", "1.5 min", "2 h"]


def test_members_of_a_mixture_are_counted(tmp_path: Path) -> None:
    """By hand: a step of the run, and a folder of half its layers; one after the other engine."""
    small = {"num_hidden_layers": 14, "hidden_size": 1536, "intermediate_size": 8960}
    small |= {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936}
    folder = tmp_path / "small"
    folder.mkdir()
    write_json(folder / "config.json", {**small, "model_type": "qwen2"})
    (folder / "model.safetensors").touch()
    save_tokenizer(folder)
    members = f"[{{model: '1400', coefficient: 1.0}}, {{model: {folder}, coefficient: 0.5}}]"
    given = (f"logit_extrap.members={members}", "logit_extrap.alphas=[]")
    words = plan(published(*given), "logit_extrap", tmp_path)
    alone = plan(published("logit_extrap.alphas=[1.5]"), "logit_extrap", tmp_path)
    assert "the mixture of 2 members:" in words
    # 1.777 G weights and 1.122 G, 2 bytes each; of 72 GB the rest is cache, 42 layers' a token
    assert "72 GB of 80 GB: parameters 5.8 GB, KV cache 66.2 GB" in words
    assert "44 sequences at once" in words
    assert "parameters 7.11 GB" in alone
    assert "32 sequences at once" in alone
    hub = f"{members[:-1]}, {{model: a/b, coefficient: 0.1}}]"
    words = plan(published(f"logit_extrap.members={hub}"), "logit_extrap", tmp_path)
    assert "without a/b, whose size is not known here" in words


def test_what_has_no_room_is_said(tmp_path: Path) -> None:
    """32 billion weights on one GPU each leave no cache for a response at its limit: vLLM would say
    so after the checkpoint is trained."""
    given = ("model=r1_distill_qwen_32b", "compute=four_nodes_8_gpus")
    assert "no room for one sequence at its limit" in plan(published(*given), "evaluate", tmp_path)
    assert "no room for one response at its limit" in plan(published(*given), "rl_train", tmp_path)
    more = (*given, "engine.tensor_parallel=4", "compute.vllm_tensor_parallel=4")
    assert "no room" not in plan(published(*more), "evaluate", tmp_path)
    assert "no room" not in plan(published(*more), "rl_train", tmp_path)
