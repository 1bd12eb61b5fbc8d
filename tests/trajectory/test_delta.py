"""Delta snapshots: would catch movement lost to rounding, and an export that is not the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory.combine import write
from pipeline.trajectory.export import export
from pipeline.trajectory.layouts import open_checkpoint
from pipeline.trajectory.layouts.delta import stream_delta_snapshot
from pipeline.trajectory.linearity import probe_weights
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.reader import Reader, Values
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.shards import Files
from pipeline.trajectory.sources import Trajectory, discover
from pipeline.trajectory.stream import pieces
from tests.trajectory.pico import (
    Tensors,
    load_model,
    random_tensors,
    write_delta_snapshot,
    write_model,
    write_run,
)

STEPS = [0, 100, 200, 300]


def small_run() -> dict[int, Tensors]:
    """fp32 truth of a run whose movement (LR 1e-6) is far below the bf16 spacing of its weights."""
    base = {n: t.bfloat16().float() for n, t in random_tensors(0).items()}
    drift, out = random_tensors(1, scale=1.0), {0: base}
    for step in STEPS[1:]:
        noise = random_tensors(step, scale=1e-6)
        out[step] = {n: t + 1e-7 * step * drift[n] + noise[n] for n, t in base.items()}
    return out


def write_deltas(tmp_path: Path, truth: dict[int, Tensors], dtype: torch.dtype) -> Trajectory:
    base = write_model(tmp_path / "base", truth[0])
    for step in STEPS[1:]:
        deltas = {n: t - truth[0][n] for n, t in truth[step].items()}
        write_delta_snapshot(tmp_path / f"deltas/step_{step}", base, step, deltas, dtype)
    return discover(tmp_path / "deltas", base)


@pytest.fixture
def truth() -> dict[int, Tensors]:
    return small_run()


def test_bf16_deltas_keep_what_bf16_checkpoints_lose(
    tmp_path: Path, truth: dict[int, Tensors]
) -> None:
    exact = probe_weights(discover(write_run(tmp_path / "fp32", truth, torch.float32), None), 0, 1)
    stairs = probe_weights(discover(write_run(tmp_path / "bf16", truth), None), 0, 1)
    deltas = probe_weights(write_deltas(tmp_path, truth, torch.bfloat16), 0, 1)
    want = exact["unfiltered"]["r2_mean"]
    assert deltas["unfiltered"]["r2_mean"] == pytest.approx(want, abs=0.003)
    assert deltas["relative_movement"] == pytest.approx(exact["relative_movement"], rel=0.003)
    assert abs(stairs["unfiltered"]["r2_mean"] - want) > 0.1


def test_bf16_movements_reach_the_kernels_as_they_lie_on_disk(
    tmp_path: Path, truth: dict[int, Tensors]
) -> None:
    """Movements taken for values, values for movements, or movements from another step's."""
    trajectory = write_deltas(tmp_path, truth, torch.bfloat16)

    def read(*steps: int) -> Values:
        return Reader([trajectory.checkpoints[step] for step in steps], files).read(piece)

    with Files() as files:
        for piece in pieces(list(trajectory.base.entries.values())):
            part = slice(piece.start, piece.stop)
            values = read(0, 100, 300)
            assert values.movements
            assert values.array.dtype == np.uint16
            rows = torch.from_numpy(values.array).view(torch.bfloat16)
            start = truth[0][piece.name]
            for row, step in zip(rows[1:], (100, 300), strict=True):
                assert row.equal((truth[step][piece.name] - start).bfloat16().flatten()[part])
            assert rows[0].equal(start.bfloat16().flatten()[part])
            assert not read(0, 0).movements
            assert read(100, 300).array.dtype == np.float32  # a difference of two movements


@pytest.mark.parametrize("method", ["two_point", "rank1"])
def test_extrapolation_works_on_the_stored_deltas(
    tmp_path: Path, truth: dict[int, Tensors], method: str
) -> None:
    trajectory = write_deltas(tmp_path, truth, torch.float32)
    out = tmp_path / "out"
    write(
        make_plan(trajectory, make_rule(method), 0, 300, [600], ["*norm*"], "float32"), {600: out}
    )
    got = load_model(out)
    for name, value in got.items():
        moved = [(truth[s][name] - truth[0][name]).flatten().double() for s in STEPS[1:]]
        d = torch.stack(moved).numpy()
        start = truth[0][name].double().flatten().numpy()
        if "norm" in name:
            expected = start + d[-1]
            tolerance = 1e-3  # held: the base's own dtype, bf16
        elif method == "two_point":
            expected = start + 2 * d[-1]
            tolerance = 1e-8
        else:
            u, s, vt = np.linalg.svd(d, full_matrices=False)
            line = np.polyfit(STEPS[1:], s[0] * u[:, 0], 1)
            expected = start + np.polyval(line, 600) * vt[0]
            tolerance = 2e-8
        assert np.allclose(value.double().flatten().numpy(), expected, rtol=0, atol=tolerance), name


def test_export_is_base_plus_delta_rounded_once(tmp_path: Path, truth: dict[int, Tensors]) -> None:
    trajectory = write_deltas(tmp_path, truth, torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        out = tmp_path / str(dtype)
        export(trajectory, 200, out, str(dtype).removeprefix("torch."))
        for name, value in load_model(out).items():
            want = truth[0][name] + (truth[200][name] - truth[0][name])
            assert torch.equal(value, want.to(dtype)), name
    assert not (tmp_path / "torch.float32/delta.json").exists()
    assert discover(tmp_path, None, {200: tmp_path / "torch.bfloat16"}).steps == [200]
    with pytest.raises(PipelineError, match="no later checkpoint of step 7; steps: 100, 200, 300"):
        export(trajectory, 7, tmp_path / "seven")


def test_first_after_the_base_and_round_trip(tmp_path: Path, truth: dict[int, Tensors]) -> None:
    """From step 100 on: the difference of two stored deltas, not of two rounded sums."""
    trajectory = Trajectory.from_json(write_deltas(tmp_path, truth, torch.float32).to_json())
    out = tmp_path / "out"
    write(
        make_plan(trajectory, make_rule("two_point"), 100, 300, [500], dtype="float32"), {500: out}
    )
    for name, value in load_model(out).items():
        a, b = truth[100][name].double(), truth[300][name].double()
        assert torch.allclose(value.double(), a + 2 * (b - a), rtol=0, atol=1e-8)


def test_unmoved_tensors_may_be_left_out_and_others_are_checked(tmp_path: Path) -> None:
    tensors = random_tensors(0)
    base = write_model(tmp_path / "base", tensors)
    norm = {"model.norm.weight": torch.ones(8)}
    write_delta_snapshot(tmp_path / "run/step_5", base, 5, norm)
    trajectory = discover(tmp_path / "run", None, {0: base, 5: tmp_path / "run/step_5"})
    export(trajectory, 5, tmp_path / "out", "float32")
    got = load_model(tmp_path / "out")
    for name, value in tensors.items():
        want = value.bfloat16().float() + (1.0 if name == "model.norm.weight" else 0.0)
        assert torch.equal(got[name], want)
    write_delta_snapshot(tmp_path / "run/step_6", base, 6, {"model.norm.weight": torch.ones(9)})
    with pytest.raises(PipelineError, match=r"model\.norm\.weight has shape \[9\]"):
        discover(tmp_path / "run", base)
    write_delta_snapshot(tmp_path / "run/step_6", base, 6, {"model.nrom.weight": torch.ones(8)})
    with pytest.raises(PipelineError, match=r"model\.nrom\.weight, which the base"):
        discover(tmp_path / "run", base)


def test_weights_that_come_one_at_a_time(tmp_path: Path, truth: dict[int, Tensors]) -> None:
    """Would catch a piece at a wrong place, a rounded base, and a tensor that never came."""
    base = open_checkpoint(0, write_model(tmp_path / "base", truth[0], shards=2))
    shapes = {n: tuple(t.shape) for n, t in truth[100].items()}
    stream_delta_snapshot(
        tmp_path / "run/step_100", base, 100, shapes, truth[100].items(), torch.float32
    )
    export(discover(tmp_path / "run", base.folder), 100, tmp_path / "out", "float32")
    for name, value in load_model(tmp_path / "out").items():
        want = truth[0][name] + (truth[100][name] - truth[0][name])
        assert torch.equal(value, want), name
    few = [(n, t) for n, t in truth[100].items() if n != "model.norm.weight"]
    with pytest.raises(PipelineError, match=r"model\.norm\.weight is not among"):
        stream_delta_snapshot(tmp_path / "run/step_200", base, 200, shapes, few)
    assert not (tmp_path / "run/step_200/delta.json").exists()


@pytest.mark.parametrize("head", [True, False])
def test_a_stored_tied_head_does_not_make_it_another_base(tmp_path: Path, head: bool) -> None:
    """Would catch a digest that sees what a reader may leave out."""
    tensors = random_tensors(0)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    base = write_model(tmp_path / "base", tensors, tied=True)
    write_delta_snapshot(tmp_path / "run/step_5", base, 5, {"model.norm.weight": torch.ones(8)})
    if not head:
        del tensors["lm_head.weight"]
        write_model(base, tensors, tied=True)
    assert discover(tmp_path / "run", base).steps == [0, 5]
    tensors["model.embed_tokens.weight"][0, 0] += 1
    write_model(base, tensors, tied=True)
    with pytest.raises(PipelineError, match=r"give the model that training started from"):
        discover(tmp_path / "run", base)
