"""Tensors, rows and values that a run never had: would catch a base's tensor in place of a lost
one, a row at a wrong place, and a mask that makes NaN of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.export import export
from pipeline.trajectory.fingerprint import check_finite
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory, discover
from pipeline.trajectory.spellings import Matching
from tests.trajectory.pico import Tensors, load_model, run_tensors, write_model, write_run
from tests.trajectory.real import edited, logits, make, mixed, moved, predicted, save

KEEP = Matching(keep=True)
ROWS = 40  # of the run; the base has 48


def cut(tensors: Tensors) -> Tensors:
    """The vocabulary without its padding."""
    wide = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: t[:ROWS] if name in wide else t for name, t in tensors.items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_padded_vocabularies(tmp_path: Path, tied: bool, stored: torch.dtype) -> None:
    """The base's rows, exactly, whatever its dtype; the output has the base's size."""
    model = make("Qwen2", tie_word_embeddings=tied)
    base = edited(
        save(model, tmp_path / "saved"),
        tmp_path / "base",
        lambda tensors: {name: t.to(stored) for name, t in tensors.items()},
    )
    model = type(model).from_pretrained(base, dtype=torch.float32)
    run = moved(model, 2)
    step = edited(
        save(run, tmp_path / "saved_10"),
        tmp_path / "step_10",
        cut,
        lambda values: values.update(vocab_size=ROWS),
    )
    with pytest.raises(PipelineError, match=r"\[40, 16\], .*\[48, 16\]; .*only_in_base=keep"):
        discover(tmp_path, base, {10: step})
    trajectory = discover(tmp_path, base, {10: step}, KEEP)
    expected = mixed(model, run, 2.0)
    with torch.no_grad():
        for name in ("model.embed_tokens", "lm_head"):
            kept = model.get_submodule(name).weight[ROWS:]
            expected.get_submodule(name).weight[ROWS:] = kept
    for found in predicted(trajectory, tmp_path / "out"):
        assert torch.equal(found, logits(expected))
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    export(trajectory, 10, tmp_path / "ten")
    written, first = load_model(tmp_path / "ten"), load_model(base)
    name = "model.embed_tokens.weight"
    assert torch.equal(written[name][ROWS:].to(stored), first[name][ROWS:])
    assert torch.equal(written[name][:ROWS], run.model.embed_tokens.weight[:ROWS])


def test_kept_rows_do_not_move(tmp_path: Path) -> None:
    """Every method and the probe see them as constant."""
    run = run_tensors([0, 20, 40, 60])
    base = write_model(tmp_path / "base", run.pop(0))
    name = "model.embed_tokens.weight"
    for tensors in run.values():
        tensors[name] = tensors[name][:30]
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:30]
    trajectory = discover(write_run(tmp_path / "run", run), base, matching=KEEP)
    start = load_model(base)
    for method in ("two_point", "least_squares", "rank1", "gated", "mean", "last"):
        out = tmp_path / method
        write(make_plan(trajectory, make_rule(method), 0, 60, [90], ["*norm*"]), {90: out})
        written = load_model(out)
        assert torch.equal(written[name][30:], start[name][30:]), method
        assert not torch.equal(written[name][:30], start[name][:30]), method
    probe = probe_weights(trajectory, 0, 1)
    [row] = [row for row in probe["tensors"] if row["name"] == name]
    assert row["unfiltered"]["r2_mean"] > 0
    assert probe["unfiltered"]["constant"] >= 2 * 7 * 8


def mtp(tensors: Tensors) -> Tensors:
    """A layer for multi-token prediction and a rotary buffer, as older files and the hub have."""
    return tensors | {
        "model.layers.2.eh_proj.weight": torch.arange(16.0).view(2, 8) / 7,
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.tensor([1.0, 0.1, 1e-2]),
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tensors_that_only_the_base_has(tmp_path: Path, dtype: str) -> None:
    """Copied to the bit and in their own dtype, where everything else is rounded."""
    run = run_tensors([0, 20, 60])
    base = write_model(tmp_path / "base", mtp(run.pop(0)), torch.float32)
    root = write_run(tmp_path / "run", run, torch.float32)
    with pytest.raises(PipelineError, match=r"inv_freq and 1 more is missing .*=keep"):
        discover(root, base)
    trajectory = discover(root, base, matching=KEEP)
    assert len(trajectory.kept) == 2
    start = load_model(base)
    for method in ("two_point", "rank1"):
        out = tmp_path / method
        write(make_plan(trajectory, make_rule(method), 0, 60, [90], dtype=dtype), {90: out})
        written = load_model(out)
        for name in trajectory.kept:
            assert written[name].dtype == torch.float32
            assert torch.equal(written[name], start[name])
        assert str(written["model.norm.weight"].dtype) == f"torch.{dtype}"


Run = dict[int, Tensors]
LOST: list[tuple[Callable[[Run], Any], str]] = [
    (lambda run: run[40].update(mtp({})), r"step_20: tensor \S+ is missing, unlike"),
    (
        lambda run: run[40].pop("model.layers.1.mlp.up_proj.weight"),
        "has it in other layers",
    ),
    (
        lambda run: run[40].update({"lm_head.weight": torch.ones(30, 8)}),
        r"lm_head\.weight has 30 rows, unlike",
    ),
    (
        lambda run: run[40].update({"lm_head.weight": torch.ones(39, 8)}),
        r"added 2 tokens: .*resize_token_embeddings\(39\)",
    ),
    (
        lambda run: run[40].update({"model.layers.1.mlp.up_proj.weight": torch.ones(20, 8)}),
        r"up_proj\.weight has shape \[20, 8\]",
    ),
    (lambda run: run[40].update({"v_head.weight": torch.ones(8)}), r"v_head\.weight is extra"),
]


@pytest.mark.parametrize(("change", "message"), LOST)
def test_what_a_run_lost_is_not_taken_from_the_base(
    tmp_path: Path, change: Callable[[Run], Any], message: str
) -> None:
    """`keep` is for what no checkpoint of the run has, and for padding."""
    run = run_tensors([0, 20, 40])
    base = write_model(tmp_path / "base", mtp(run.pop(0)))
    change(run)
    with pytest.raises(PipelineError, match=message):
        discover(write_run(tmp_path / "run", run, name="step_{}"), base, matching=KEEP)


def with_mask(run: Mapping[int, Tensors], name: str, value: float) -> None:
    for tensors in run.values():
        tensors[name] = torch.tensor([0.0, value])


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_buffers_of_infinities_pass(tmp_path: Path, value: float) -> None:
    """A mask that is the same everywhere is copied; in a sum it would be NaN."""
    run = run_tensors([0, 20, 40, 60])
    with_mask(run, "model.layers.0.attn.masked_bias", value)
    trajectory = discover(write_run(tmp_path / "run", run), None)
    check_finite(trajectory)
    probe_weights(trajectory)
    for method in ("two_point", "rank1", "gated", "last"):
        out = tmp_path / method
        write(make_plan(trajectory, make_rule(method), 0, 60, [90]), {90: out})
        written = load_model(out)
        first = load_model(tmp_path / "run/global_step_0")["model.layers.0.attn.masked_bias"]
        assert torch.equal(written["model.layers.0.attn.masked_bias"].isfinite(), first.isfinite())
        assert written["model.norm.weight"].isfinite().all()


@pytest.mark.parametrize(
    ("name", "moving"), [("model.norm.weight", False), ("model.attn.masked_bias", True)]
)
def test_other_infinities_are_refused(tmp_path: Path, name: str, moving: bool) -> None:
    """A weight, though it be the same everywhere; and a buffer that is not."""
    run = run_tensors([0, 20, 40])
    with_mask(run, name, float("inf"))
    if moving:
        run[40][name][0] = 1.0
    trajectory = discover(write_run(tmp_path / "run", run), None)
    with pytest.raises(PipelineError, match=rf"tensor {name}: 1 of 2 values are NaN or infinite"):
        check_finite(trajectory)
    with pytest.raises(PipelineError, match=rf"tensor {name}: 1 of 2"):
        write(make_plan(trajectory, make_rule("two_point"), 0, 40, [90]), {90: tmp_path / "out"})


def test_nan_in_a_matrix_is_no_mask(tmp_path: Path) -> None:
    """Fused experts have no name that says weight; the same damage everywhere is damage."""
    run = run_tensors([0, 20, 40])
    name = "model.layers.0.mlp.experts.gate_up_proj"
    for tensors in run.values():
        tensors[name] = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    with pytest.raises(PipelineError, match=rf"tensor {name}: 1 of 4 values are NaN"):
        check_finite(discover(write_run(tmp_path / "run", run), None))
