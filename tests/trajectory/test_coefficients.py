"""Methods against numpy in fp64: would catch a wrong formula and a position taken for a step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.trajectory import coefficients
from pipeline.trajectory.coefficients import METHODS, damped
from pipeline.trajectory.gram import (
    Gram,
    explained_variance,
    linear_r2,
    rank1_curve,
    segment_cosines,
)
from pipeline.trajectory.rule import make_rule

STEPS = [0, 30, 40, 100, 250]  # uneven
TARGET = 400


def run(seed: int = 0, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """theta [K, n] and its Gram matrix, all fp64."""
    rng = np.random.default_rng(seed)
    drift = np.outer(np.array(STEPS), rng.normal(size=n)) * 1e-3
    theta = rng.normal(size=n) + drift + 0.05 * rng.normal(size=(len(STEPS), n))
    deltas = theta - theta[0]
    return theta, deltas @ deltas.T


def predict(theta: np.ndarray, c: np.ndarray) -> np.ndarray:
    return theta[0] + c @ (theta - theta[0])


def test_least_squares_is_polyfit_of_every_scalar() -> None:
    theta, _ = run()
    slope, intercept = np.polyfit(STEPS, theta, 1)
    c = coefficients.least_squares(STEPS, None, TARGET)
    assert np.allclose(predict(theta, c), slope * TARGET + intercept, atol=1e-12)


def svd_prediction(theta: np.ndarray, rank: int) -> np.ndarray:
    """Rank-r SVD of the deltas, a line through each coefficient series, as the paper has it."""
    deltas = theta[1:] - theta[0]
    u, s, vt = np.linalg.svd(deltas, full_matrices=False)
    out = theta[0].copy()
    for r in range(rank):
        line = np.polyfit(STEPS[1:], s[r] * u[:, r], 1)
        out += np.polyval(line, TARGET) * vt[r]
    return out


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_rank_r_is_the_direct_svd(rank: int, seed: int) -> None:
    theta, gram = run(seed)
    c = coefficients.rank1(STEPS, gram, TARGET, rank=rank)
    assert np.allclose(predict(theta, c), svd_prediction(theta, rank), rtol=0, atol=1e-11)


@pytest.mark.parametrize("with_start", [True, False])
def test_full_rank_is_least_squares(with_start: bool) -> None:
    theta, gram = run()
    full = coefficients.rank1(STEPS, gram, TARGET, rank=None, with_start=with_start)
    line = coefficients.least_squares(STEPS, None, TARGET, with_start=with_start)
    assert np.allclose(predict(theta, full), predict(theta, line), atol=1e-10)


def test_rank1_of_a_frozen_tensor_stays() -> None:
    gram = np.zeros((5, 5))
    assert coefficients.rank1(STEPS, gram, TARGET).tolist() == [0.0] * 5


@pytest.mark.parametrize("name", ["two_point", "least_squares", "rank1", "gated"])
def test_a_straight_path_is_continued_exactly(name: str) -> None:
    rng = np.random.default_rng(3)
    start, drift = rng.normal(size=(2, 40))
    theta = start + np.outer(STEPS, drift) * 1e-3
    deltas = theta - theta[0]
    c = METHODS[name].coefficients(STEPS, deltas @ deltas.T, TARGET)
    assert np.allclose(predict(theta, c), start + TARGET * 1e-3 * drift, atol=1e-9)


def test_expo_mean_last() -> None:
    theta, _ = run()
    assert np.allclose(
        predict(theta, coefficients.expo(STEPS, None, TARGET, alpha=0.3)),
        theta[-1] + 0.3 * (theta[-1] - theta[0]),
    )
    assert np.allclose(predict(theta, coefficients.mean(STEPS, None, TARGET)), theta.mean(0))
    last_two = coefficients.mean(STEPS, None, TARGET, count=2)
    assert np.allclose(predict(theta, last_two), theta[-2:].mean(0))
    assert np.allclose(predict(theta, coefficients.last(STEPS, None, TARGET)), theta[-1])
    with pytest.raises(PipelineError, match="count=6"):
        coefficients.mean(STEPS, None, TARGET, count=6)


@given(damping=st.floats(0, 1), target=st.integers(251, 2000))
def test_damped_two_point_is_the_published_form(damping: float, target: int) -> None:
    theta, _ = run()
    c = damped(coefficients.two_point(STEPS, None, target), damping)
    beyond = (target - 250) / 250
    assert np.allclose(
        predict(theta, c), theta[-1] + damping * beyond * (theta[-1] - theta[0]), atol=1e-9
    )


def test_gate_is_the_weighted_mean_of_scalar_r2() -> None:
    theta, gram = run()
    steps = np.array(STEPS, float)
    r2 = np.array([np.corrcoef(steps, column)[0, 1] ** 2 for column in theta.T])
    spread = ((theta - theta.mean(0)) ** 2).sum(0)
    expected = (r2 * spread).sum() / spread.sum()
    assert linear_r2(STEPS, gram) == pytest.approx(expected, abs=1e-12)
    c = coefficients.gated(STEPS, gram, TARGET)
    full = coefficients.two_point(STEPS, None, TARGET)
    step = predict(theta, full) - theta[-1]
    assert np.allclose(predict(theta, c), theta[-1] + expected * step)
    for options, word in (({"line": "spline"}, "line"), ({"by": "layer"}, "by")):
        with pytest.raises(PipelineError, match=word):
            coefficients.gated(STEPS, gram, TARGET, **options)


def test_gram_figures_against_direct_ones() -> None:
    theta, gram = run()
    deltas = theta - theta[0]
    u, s, _ = np.linalg.svd(deltas[1:], full_matrices=False)
    assert explained_variance(gram) == pytest.approx(np.cumsum(s**2) / (s**2).sum())
    assert np.allclose(np.abs(rank1_curve(gram)[1:]), np.abs(s[0] * u[:, 0]))
    assert rank1_curve(gram)[-1] > 0
    segments = np.diff(theta, axis=0)
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairwise(segments)]
    assert segment_cosines(gram) == pytest.approx(expected)
    movement = Gram(theta[:1] @ theta[0], gram).relative_movement
    assert movement == pytest.approx(np.linalg.norm(deltas[-1]) / np.linalg.norm(theta[0]))


def test_used_steps() -> None:
    steps = [0, 20, 40, 60, 80]
    assert make_rule("two_point").used_steps(steps, 20, 60) == [20, 60]
    assert make_rule("rank1").used_steps(steps, 20, 60) == [20, 40, 60]
    with pytest.raises(PipelineError, match="needs 3 checkpoints, steps 20 to 40 hold 2"):
        make_rule("rank1").used_steps(steps, 20, 40)


def test_first_update_and_ema_by_hand() -> None:
    steps = [10, 30, 70]
    assert coefficients.first_update(steps, None, 90).tolist() == [0.0, 4.0, 0.0]
    assert np.allclose(coefficients.ema(steps, None, 90, decay=0.5), [0.0, 2 / 7, 4 / 7])
    assert np.allclose(coefficients.ema(steps, None, 90, decay=0.0), [0.0, 0.0, 1.0])
    same = coefficients.mean(STEPS, None, TARGET)
    assert np.allclose(coefficients.ema(STEPS, None, TARGET, decay=1.0), same)
    with pytest.raises(PipelineError, match=r"decay=1\.5"):
        coefficients.ema(steps, None, 90, decay=1.5)


def test_rre_finds_where_a_contraction_rests_within_its_limit() -> None:
    """theta_i+1 - rest = A (theta_i - rest), of rank 2: four movements tell the rest exactly."""
    rng = np.random.default_rng(0)
    rest, one, two = rng.normal(size=(3, 20))
    theta = np.stack([rest + 0.8**i * one + 0.3**i * two for i in range(5)])
    deltas = theta - theta[0]
    gram = deltas @ deltas.T
    c = coefficients.rre(STEPS, gram, TARGET, ridge=1e-10)
    assert np.allclose(predict(theta, c), rest, atol=1e-3)
    rule = make_rule("rre", {"ridge": 1e-10, "max_norm": 0.5})
    near = predict(theta, rule.coefficients(STEPS, "", gram, TARGET))
    last, free = np.linalg.norm(theta[-1] - theta[-2]), predict(theta, c) - theta[-1]
    assert np.isclose(np.linalg.norm(near - theta[-1]), 0.5 * last)
    assert np.allclose(near - theta[-1], free * (0.5 * last / np.linalg.norm(free)))
    average = predict(theta, coefficients.rre(STEPS, gram, TARGET, ridge=1e9))
    assert np.allclose(average, theta[1:].mean(0))
    assert coefficients.rre(STEPS, np.zeros((5, 5)), TARGET).tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(PipelineError, match="must be above 0"):
        coefficients.rre(STEPS, gram, TARGET, ridge=0.0)
    assert make_rule("rre").max_norm == 1.0  # it has a limit unless none is asked for
    assert make_rule("rre", {"max_norm": None}).max_norm is None
