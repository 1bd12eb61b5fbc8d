"""Extrapolated models: would catch wrong arithmetic, a lost file, or half a model left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory import plan, stream, writer
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover
from tests.trajectory.pico import load_model, run_tensors, write_run

STEPS = [0, 40, 60]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors into many pieces, none of which divides them evenly."""
    monkeypatch.setattr(stream, "PIECE", 29)


def expected(t0: torch.Tensor, t1: torch.Tensor, alpha: float) -> torch.Tensor:
    """theta_0 + alpha (theta_1 - theta_0) by numpy in fp32, rounded once."""
    a, b = t0.float().numpy(), t1.float().numpy()
    return torch.from_numpy(a + np.float32(alpha) * (b - a)).to(t0.dtype)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_two_point_is_bit_equal(tmp_path: Path, dtype: torch.dtype, shards: int) -> None:
    root = write_run(tmp_path / "run", run_tensors(STEPS), dtype, shards=shards)
    out = {150: tmp_path / "out/step_150", 90: tmp_path / "out/step_90"}
    name = str(dtype).removeprefix("torch.")
    write(
        make_plan(discover(root, None), make_rule("two_point"), 0, 60, [150, 90], ["*norm*"], name),
        out,
    )
    first, last = (load_model(root / f"global_step_{s}") for s in (0, 60))
    for target, alpha in ((150, 2.5), (90, 1.5)):
        result = load_model(out[target])
        assert set(result) == set(first)
        for tensor, value in result.items():
            held = "norm" in tensor
            want = last[tensor] if held else expected(first[tensor], last[tensor], alpha)
            assert value.dtype == dtype
            assert torch.equal(value.view(torch.uint8), want.view(torch.uint8)), tensor


def test_first_need_not_be_the_base(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", run_tensors(STEPS))
    out = tmp_path / "out"
    write(make_plan(discover(root, None), make_rule("two_point"), 40, 60, [70]), {70: out})
    first, last = (load_model(root / f"global_step_{s}") for s in (40, 60))
    for name, value in load_model(out).items():
        assert torch.equal(value, expected(first[name], last[name], 1.5))


def test_folder_is_complete(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", run_tensors(STEPS), torch.float32)
    (root / "global_step_60/optimizer.pt").write_bytes(b"x")
    (root / "global_step_60/trainer_state.json").write_text("{}")
    (root / "global_step_60/tokenizer_config.json").unlink()  # another folder's is not added
    out = tmp_path / "out/step_150"
    records = write(
        make_plan(discover(root, None), make_rule("two_point"), 0, 60, [150], ["*norm*"]),
        {150: out},
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "extrapolation.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "torch_dtype" not in config
    record = json.loads((out / "extrapolation.json").read_text())
    assert record == records[150]
    assert record["alpha"] == 2.5
    assert record["coefficients"] == {"0": 0.0, "60": 2.5}
    assert [i["step"] for i in record["inputs"]] == [0, 60]
    assert "model.norm.weight" in record["copied"]


def test_output_shards_have_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_run(tmp_path / "run", run_tensors(STEPS))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trajectory = discover(root, None)
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: whole})
    monkeypatch.setattr(plan, "plan_shards", lambda tensors: writer.plan_shards(tensors, limit=500))
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: parts})
    assert len(list(parts.glob("*.safetensors"))) > 2
    one, many = load_model(whole), load_model(parts)
    assert all(torch.equal(one[n], many[n]) for n in one)


def test_integers_are_copied_and_hold_keeps_its_dtype(tmp_path: Path) -> None:
    run = run_tensors([0, 60])
    for step in run:
        run[step]["model.position_ids"] = torch.arange(5) + step
        run[step]["model.flags"] = torch.tensor([True, False, step == 60])
    root = write_run(tmp_path / "run", run, torch.float32)
    out = tmp_path / "out"
    write(
        make_plan(discover(root, None), make_rule("two_point"), 0, 60, [90], ["*norm*"]), {90: out}
    )
    result, last = load_model(out), load_model(root / "global_step_60")
    for name in ("model.position_ids", "model.flags", "model.norm.weight"):
        assert result[name].dtype == last[name].dtype
        assert torch.equal(result[name], last[name])


def test_tied_embedding_is_extrapolated_and_stays_tied(tmp_path: Path) -> None:
    run = run_tensors(STEPS)
    for tensors in run.values():  # stored as well
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    root = write_run(tmp_path / "run", run, tied=True)
    out = tmp_path / "out"
    write(
        make_plan(discover(root, None), make_rule("two_point"), 0, 60, [120], ["*norm*"]),
        {120: out},
    )
    result = load_model(out)
    assert "lm_head.weight" not in result
    name = "model.embed_tokens.weight"
    first, last = (load_model(root / f"global_step_{s}")[name] for s in (0, 60))
    assert torch.equal(result[name], expected(first, last, 2.0))
    assert not torch.equal(result[name], last)


def test_nan_in_an_input_is_named(tmp_path: Path) -> None:
    run = run_tensors(STEPS)
    run[60]["model.layers.0.mlp.up_proj.weight"][3, :2] = float("nan")
    trajectory = discover(write_run(tmp_path / "run", run), None)
    out = tmp_path / "out/step_90"
    with pytest.raises(PipelineError, match=r"global_step_60: tensor .*up_proj.weight: 2 of 192"):
        write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: out})
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last": 50}, r"extrapolation\.last=50: no such checkpoint; steps: 0, 40, 60"),
        ({"first": 60}, "must be below"),
        ({"method": "three_point"}, "unknown extrapolation method 'three_point'"),
        ({"dtype": "int4"}, "known dtypes"),
        ({"hold": ["*nrom*"]}, "matches no tensor"),
        ({"options": {"gamma": 1}}, r"extrapolation\.options\.gamma"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    trajectory = discover(write_run(tmp_path / "run", run_tensors(STEPS)), None)
    good: dict[str, Any] = {"method": "two_point", "first": 0, "last": 60, "targets": [90]}
    given = good | change
    method, options = given.pop("method"), given.pop("options", {})
    with pytest.raises(PipelineError, match=message):
        write(make_plan(trajectory, make_rule(method, options), **given), {90: tmp_path / "out"})
    assert not (tmp_path / "out").exists()


def test_rerun_leaves_finished_and_replaces_changed(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", run_tensors(STEPS))
    trajectory, out = discover(root, None), tmp_path / "out"
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: out})
    before = (out / "model.safetensors").stat()
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: out})
    assert (out / "model.safetensors").stat().st_ino == before.st_ino
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90], ["*norm*"]), {90: out})
    assert (out / "model.safetensors").stat().st_ino != before.st_ino
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.trajectory import output, plan, writer
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import discover

plan.plan_shards = lambda tensors: writer.plan_shards(tensors, limit=500)
finished = 0
class Deadly(writer.ShardFile):
    def write(self, *args):
        global finished
        super().write(*args)
        finished += self._left == 0
        if finished == 2:
            os.kill(os.getpid(), signal.SIGKILL)
output.ShardFile = Deadly
root, out = map(Path, sys.argv[1:])
write(make_plan(discover(root, None), make_rule("two_point"), 0, 60, [90]), {90: out})
"""


def test_killed_combine_leaves_nothing_finished_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = write_run(tmp_path / "run", run_tensors(STEPS)), tmp_path / "out"
    repo = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(out)],
        env=os.environ | {"PYTHONPATH": str(repo)},
        capture_output=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert not out.exists()
    (partial,) = tmp_path.glob(".out.*.partial")
    kept = sorted(partial.glob("model-*.safetensors"))
    assert len(kept) >= 2
    inodes = {p.name: p.stat().st_ino for p in kept}
    trajectory = discover(root, None)
    whole = tmp_path / "whole"
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: whole})
    monkeypatch.setattr(plan, "plan_shards", lambda tensors: writer.plan_shards(tensors, limit=500))
    write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: out})
    assert {n: (out / n).stat().st_ino for n in inodes} == inodes
    one, again = load_model(whole), load_model(out)
    assert set(one) == set(again)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not partial.exists()


def test_disk_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trajectory = discover(write_run(tmp_path / "run", run_tensors(STEPS)), None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(PipelineError, match="GB free; make room"):
        write(make_plan(trajectory, make_rule("two_point"), 0, 60, [90]), {90: tmp_path / "out"})


def test_from_pretrained_reads_it(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model: Any
    config = Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    for step in (0, 10):
        torch.manual_seed(step)
        model = Qwen2ForCausalLM(config)
        model.to(torch.bfloat16).save_pretrained(tmp_path / f"checkpoint-{step}")
    out = tmp_path / "out"
    write(
        make_plan(discover(tmp_path, None), make_rule("two_point"), 0, 10, [15], ["*norm*"]),
        {15: out},
    )
    load: Any = Qwen2ForCausalLM.from_pretrained  # its return type leaves out the loading info
    model, info = load(out, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    first, last = (
        Qwen2ForCausalLM.from_pretrained(tmp_path / f"checkpoint-{s}", dtype="auto")
        for s in (0, 10)
    )
    got, a, b = (m.lm_head.weight.detach() for m in (model, first, last))
    assert torch.equal(got, expected(a, b, 1.5))
