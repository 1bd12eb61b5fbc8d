"""Trust regions by hand: would catch a norm of the wrong movement, a cap after the damping, a cap
over the whole model, and a prediction within its limit that changes in the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.candidates import extrapolation_fingerprint
from pipeline.trajectory.coefficients import METHODS
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.rule import Rule, make_rule
from pipeline.trajectory.sources import Trajectory, discover
from tests.trajectory.pico import load_model, run_tensors, write_run

STEPS = [0, 20, 50, 60]
# theta of one tensor of 2 weights; the last movement is (3, 4), of length 5
THETA = np.array([[1.0, 1.0], [2.0, 0.0], [4.0, 1.0], [7.0, 5.0]])
Array = NDArray[np.float64]


def predicted(rule: Rule, theta: Array, steps: list[int], target: int) -> Array:
    deltas = theta - theta[0]
    c = rule.coefficients(steps, "w", deltas @ deltas.T if rule.needs_gram else None, target)
    return theta[0] + c @ deltas


def test_two_point_by_hand() -> None:
    """To 120 the line takes (6, 4) beyond the last; two ends: that is the last movement, too."""
    ends = THETA[[0, -1]]
    for limit, factor in ((2.0, 1.0), (1.0, 1.0), (0.5, 0.5), (0.1, 0.1)):
        rule = make_rule("two_point", {"max_norm": limit})
        assert np.allclose(predicted(rule, ends, [0, 60], 120), [7 + 6 * factor, 5 + 4 * factor])
    both = make_rule("two_point", {"max_norm": 0.5, "damping": 0.5})
    assert np.allclose(predicted(both, ends, [0, 60], 120), [8.5, 6.0])


def test_first_update_by_hand() -> None:
    """To 120: (1, 1) + 6 (1, -1) = (7, -5), which is (0, -10) from the last: twice its movement."""
    assert np.allclose(predicted(make_rule("first_update"), THETA, STEPS, 120), [7.0, -5.0])
    for limit, second in ((2.5, -5.0), (1.0, 0.0), (0.5, 2.5)):
        rule = make_rule("first_update", {"max_norm": limit})
        assert np.allclose(predicted(rule, THETA, STEPS, 120), [7.0, second])
    both = make_rule("first_update", {"max_norm": 1.0, "damping": 0.1})
    assert np.allclose(predicted(both, THETA, STEPS, 120), [7.0, 4.5])


def test_least_squares_by_hand() -> None:
    """The lines of the two weights by numpy, shortened to half the last movement."""
    line = np.array([np.polyval(np.polyfit(STEPS, column, 1), 300) for column in THETA.T])
    assert np.allclose(predicted(make_rule("least_squares"), THETA, STEPS, 300), line)
    step = line - THETA[-1]
    rule = make_rule("least_squares", {"max_norm": 0.5})
    expected = THETA[-1] + 2.5 * step / np.linalg.norm(step)
    assert np.allclose(predicted(rule, THETA, STEPS, 300), expected)


def test_rank1_by_hand() -> None:
    """The direct SVD and its line, with lambda after the cap."""
    deltas = THETA[1:] - THETA[0]
    u, s, vt = np.linalg.svd(deltas, full_matrices=False)
    free = THETA[0] + np.polyval(np.polyfit(STEPS[1:], s[0] * u[:, 0], 1), 600) * vt[0]
    step = free - THETA[-1]
    assert np.linalg.norm(step) > 5.0
    rule = make_rule("rank1", {"max_norm": 1.0, "damping": 0.1})
    expected = THETA[-1] + 0.1 * 5.0 * step / np.linalg.norm(step)
    assert np.allclose(predicted(rule, THETA, STEPS, 600), expected)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("damping", [1.0, 0.3])
def test_within_its_limit_every_method_is_itself_to_the_bit(method: str, damping: float) -> None:
    ends = METHODS[method].uses == "ends"
    steps, theta = ([0, 60], THETA[[0, -1]]) if ends else (STEPS, THETA)
    gram = (theta - theta[0]) @ (theta - theta[0]).T
    options = {"damping": damping}
    free = make_rule(method, {**options, "max_norm": None})
    wide, narrow = (make_rule(method, {**options, "max_norm": n}) for n in (1e6, 1e-3))
    assert wide.needs_gram
    assert free.needs_gram == METHODS[method].needs_gram
    c = free.coefficients(steps, "w", gram, 900)
    assert wide.coefficients(steps, "w", gram, 900).tolist() == c.tolist()
    near = theta[0] + narrow.coefficients(steps, "w", gram, 900) @ (theta - theta[0])
    last = np.linalg.norm(theta[-1] - theta[-2])
    assert np.linalg.norm(near - theta[-1]) <= 1e-3 * damping * last * (1 + 1e-9)


def test_where_nothing_moved_last_nothing_moves() -> None:
    still = np.concatenate([THETA, THETA[-1:]])
    rule = make_rule("least_squares", {"max_norm": 2.0})
    assert predicted(rule, still, [*STEPS, 70], 500).tolist() == THETA[-1].tolist()
    zero = make_rule("two_point", {"max_norm": 2.0})
    assert predicted(zero, THETA[[0, 0]], [0, 60], 500).tolist() == THETA[0].tolist()


@pytest.fixture
def trajectory(tmp_path: Path) -> Trajectory:
    return discover(write_run(tmp_path / "run", run_tensors(STEPS)), None)


def written(trajectory: Trajectory, out: Path, **options: Any) -> dict[str, Array]:
    rule = make_rule("least_squares", options)
    write(make_plan(trajectory, rule, 0, 60, [600], dtype="float32"), {600: out})
    return {n: v.double().flatten().numpy() for n, v in load_model(out).items()}


def test_whole_models_are_at_the_limit_tensor_by_tensor(
    trajectory: Trajectory, tmp_path: Path
) -> None:
    """Norms of the written weights, against those of the files read."""
    made = written(trajectory, tmp_path / "near", max_norm=0.5)
    free = written(trajectory, tmp_path / "free")
    wide = written(trajectory, tmp_path / "wide", max_norm=1e4)
    root = tmp_path / "run"
    last, before = (load_model(root / f"global_step_{s}") for s in (60, 50))
    for name, values in made.items():
        end = last[name].double().flatten().numpy()
        length = np.linalg.norm(end - before[name].double().flatten().numpy())
        assert np.linalg.norm(free[name] - end) > 0.5 * length, name
        rounding = 2.0**-23 * float(np.linalg.norm(end))
        moved = np.linalg.norm(values - end)
        assert moved == pytest.approx(0.5 * length, rel=1e-5, abs=rounding), name
        assert np.array_equal(wide[name], free[name]), name


def test_it_is_recorded_and_a_model_without_one_is_the_same_as_before(
    trajectory: Trajectory, tmp_path: Path
) -> None:
    """A limit that decides weights and is not in their fingerprint would give old samples."""
    records = {}
    for key, options in {"near": {"max_norm": 0.5}, "half": {"max_norm": 0.25}, "free": {}}.items():
        written(trajectory, tmp_path / key, **options)
        records[key] = json.loads((tmp_path / key / "extrapolation.json").read_text())
    assert records["near"]["max_norm"] == 0.5
    assert "max_norm" not in records["free"]
    assert records["near"]["coefficients"] is None
    assert len(records["near"]["tensors"]) == len(load_model(tmp_path / "near"))
    assert len({record["plan"] for record in records.values()}) == 3
    assert len({extrapolation_fingerprint(record) for record in records.values()}) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_norm": 0}, r"extrapolation.options.max_norm: 0 is not above 0; null: no limit"),
        ({"max_norm": -1.5}, r"max_norm: -1.5 is not above 0"),
        ({"max_norm": float("nan")}, "max_norm"),
        ({"max_norm": "wide"}, "max_norm"),
        ({"max_norm": True}, "max_norm"),
        ({"damping": -0.5}, "damping: -0.5 is not 0 or more"),
    ],
)
def test_bad_values(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        make_rule("two_point", options)


def test_targets_before_the_last_checkpoint_are_refused(trajectory: Trajectory) -> None:
    """A step back that is silently cut short would be no interpolation."""
    with pytest.raises(PipelineError, match=r"40 is before .* max_norm and gating"):
        make_plan(trajectory, make_rule("two_point", {"max_norm": 1.0}), 0, 60, [40])
    make_plan(trajectory, make_rule("rre"), 0, 60, [40])  # whatever the target
