"""Faults caught: a blank or clipped figure, a crash on one point, on nothing, or on strange names.

Each figure is drawn and read back: it must have the size that the page expects, and ink of the
colour that stands for its data.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.report import figures
from pipeline.report.figures import DARK, LIGHT, Theme
from pipeline.report.figures.style import DPI, WIDTH, pick_ticks, printable, shorten
from pipeline.report.figures.training import smooth, smoothing_window

from . import synthetic

RNG = np.random.default_rng(0)
WEIGHTS = synthetic.weights(RNG, 4)
LOGPROBS = synthetic.logprobs(RNG)
ACTIVATIONS = synthetic.activations(RNG, 4)
BINS = LOGPROBS["r2_by_base_probability"], LOGPROBS["r2_by_change"]
SCORES = synthetic.scores({"weight": 0.01, "logit": 0.03})
REWARDS = synthetic.rewards(RNG)
TEST_ROWS = [row for row in SCORES["rows"] if row["split"] == "test"][-4:]
SIGNS = [row for row in SCORES["rows"] if row["split"] == "test"]
LABELS = [row["model"] for row in TEST_ROWS]
FIGURES = {  # of a whole run's page, and whose colour must be in each
    "weights_r2": "rl",
    "logprobs_r2": "rl",
    "weights_heat_map": "",
    "weight_examples": "rl",
    "token_examples": "rl",
    "activations_r2": "rl",
    "activations_change": "rl",
    "logprobs_bins": "rl",
    "reward": "rl",
    "horizon": "rl",
    "alpha": "logit",
    "temperature": "logit",
    "collapse_step": "rl",
    "collapse_alpha": "logit",
    "models_arithmetic": "logit",
}


def pixels(path: Path) -> NDArray[np.float64]:
    """The PNG as [height, width, 3] in 0..1."""
    return np.asarray(matplotlib.image.imread(path))[:, :, :3]


def share_of(image: NDArray[np.float64], colour: str, tolerance: float = 0.2) -> float:
    """Share of the pixels whose colour is about `colour`."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(image - wanted).max(axis=2) < tolerance).mean())


def assert_drawn(path: Path, theme: Theme = LIGHT) -> NDArray[np.float64]:
    """It has the page's width, is mostly paper at its rim, and is not blank."""
    image = pixels(path)
    assert image.shape[1] == round(WIDTH * DPI)
    rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert share_of(rim[None], theme.paper, 0.02) == 1.0, "something is cut off at the rim"
    assert image.std() > 0.01
    return image


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_in_both_themes(name: str, theme: Theme, finished_run: Path) -> None:
    path = finished_run / "report" / f"{name}{'-dark' if theme is DARK else ''}.png"
    image = assert_drawn(path, theme)
    if colour := FIGURES[name]:
        assert share_of(image, getattr(theme, colour)) > 1e-4, "its data are not to be seen"


def test_a_figure_is_drawn_alike_each_time_and_leaves_no_other_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for path in (first, second):
        figures.alpha_curve(SCORES["rows"], "rl-100", path)
    assert first.read_bytes() == second.read_bytes()
    assert set(tmp_path.iterdir()) == {first, second}, "a temporary file is left"


def test_histogram_without_unfiltered_counts_or_any_scalar(tmp_path: Path) -> None:
    empty = {
        "histogram": {"edges": [0.0, 0.5, 1.0], "counts": [0, 0]},
        "r2_median": None,
        "unfiltered": {"r2_median": None},
    }
    assert_drawn(figures.r2_histogram(empty, "weights", tmp_path / "a.png"))


def test_histogram_bars_hold_all_the_mass(tmp_path: Path) -> None:
    """All scalars in the last bin: the bar reaches its full height at the right, nothing left."""
    counts = [0] * 999 + [1000]
    probe = {
        "histogram": {"edges": np.linspace(0, 1, 1001).tolist(), "counts": counts},
        "r2_median": 0.9995,
        "unfiltered": {"r2_median": None},
    }
    image = pixels(figures.r2_histogram(probe, "weights", tmp_path / "a.png"))
    blue = np.abs(image - np.array([0.25, 0.58, 0.77])).max(axis=2) < 0.08
    columns = np.flatnonzero(blue.sum(axis=0) > 100)  # neither text nor the legend's patch
    assert columns.size > 10
    assert columns.min() > 0.9 * image.shape[1]


def test_scalars_that_never_move_do_not_flatten_the_rest(tmp_path: Path) -> None:
    """90 % of all scalars lie at 0: the bars of those that pass must keep their height."""
    counts = np.histogram(np.linspace(0.5, 1, 1000), np.linspace(0, 1, 1001))[0]
    everything = counts.copy()
    everything[0] += 9000
    probe = {
        "histogram": {
            "edges": np.linspace(0, 1, 1001).tolist(),
            "counts": counts.tolist(),
            "counts_unfiltered": everything.tolist(),
        },
        "r2_median": 0.75,
        "unfiltered": {"r2_median": 0.0},
    }
    image = pixels(figures.r2_histogram(probe, "weights", tmp_path / "a.png"))
    blue = np.abs(image - np.array([0.25, 0.58, 0.77])).max(axis=2) < 0.08
    assert blue.sum(axis=0).max() > 0.5 * image.shape[0]


@pytest.mark.parametrize("layers", [1, 100])
def test_heat_map_of_one_layer_and_of_hundreds_of_tensors(layers: int, tmp_path: Path) -> None:
    tensors = synthetic.weights(RNG, layers)["tensors"]
    image = assert_drawn(figures.r2_heat_map(tensors, tmp_path / "a.png"))
    assert image.shape[0] < 1200, "the height must follow the kinds of tensor, not their number"


def test_heat_map_colours_follow_the_values(tmp_path: Path) -> None:
    tensors = [
        {"name": f"model.layers.{layer}.mlp.up_proj.weight", "kept": 1, "r2_mean": float(layer)}
        for layer in (0, 1)
    ]
    image = pixels(figures.r2_heat_map(tensors, tmp_path / "a.png"))
    row = image[60]
    low, high = np.array([68, 1, 84]) / 255, np.array([253, 231, 37]) / 255
    dark = np.flatnonzero(np.abs(row - low).max(axis=1) < 0.02)
    bright = np.flatnonzero(np.abs(row - high).max(axis=1) < 0.02)
    assert dark.size > 300
    assert bright.size > 300
    assert dark.max() < bright.min()


def test_heat_map_of_tensors_outside_layers_only_or_long_names(tmp_path: Path) -> None:
    tensors = [{"name": "x" * 90 + ".weight", "kept": 0, "r2_mean": None}]
    assert_drawn(figures.r2_heat_map(tensors, tmp_path / "a.png"))


def test_fits_with_odd_text_one_snapshot_and_no_variance(tmp_path: Path) -> None:
    flat = {"steps": [5], "values": [0.1], "slope": 0.0, "intercept": 0.1, "r2": None}
    texts = ["$\\frac{x", "中文\n", "", "a" * 200]
    examples = [{"token": text, "context": text * 3, **flat} for text in texts]
    assert_drawn(figures.token_fits(examples, tmp_path / "a.png"))
    names = [{"name": "model.layers.3." + "long." * 30 + "weight", "index": 7, **flat}]
    assert_drawn(figures.weight_fits(names, tmp_path / "b.png"))


def bar_share(rows: list[dict[str, Any]], path: Path) -> float:
    """The weights' part of what is drawn in the two colours of input and weights."""
    image = pixels(figures.change_shares(rows, path))[round(0.4 * DPI) :]  # below the legend
    blue, orange = (
        share_of(image, colour, 0.1) for colour in (blend(LIGHT.rl), blend(LIGHT.methods[0]))
    )
    return orange / (blue + orange)


def blend(colour: str) -> str:
    """A bar's colour at 85 % on white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(0.85 * value + 0.15 * 255):02x}" for value in channels)


@pytest.mark.parametrize("weights", [0.1, 0.6])
def test_stacked_bars_are_as_long_as_the_shares(weights: float, tmp_path: Path) -> None:
    """The share of a layer that did not change counted as nothing, or a bar drawn twice."""
    rows = [
        synthetic.driver(f"model.layers.{i}.mlp.up_proj", weights + d, 0.0)
        for i, d in enumerate((-0.1, 0.1))
    ]
    still = dict.fromkeys(("input_change", "weight_change", "cross", "bias_change"))
    rows.append({**rows[0], "name": "model.layers.2.mlp.up_proj", **still, "output_change": 0.0})
    assert bar_share(rows, tmp_path / "a.png") == pytest.approx(weights, abs=0.02)


def test_shares_below_zero_and_none_at_all(tmp_path: Path) -> None:
    against = [synthetic.driver("lm_head", weights=-0.4)]
    assert_drawn(figures.change_shares(against, tmp_path / "a.png"))
    assert_drawn(figures.change_shares([], tmp_path / "b.png"))


@pytest.mark.parametrize("layers", [1, 80])
def test_hidden_states_of_few_and_of_many_layers(layers: int, tmp_path: Path) -> None:
    rows = synthetic.activations(RNG, layers)["layers"]
    assert_drawn(figures.hidden_state_r2(rows, tmp_path / "a.png"))
    nothing = [{**row, "r2_median": None} for row in rows]
    assert_drawn(figures.hidden_state_r2(nothing, tmp_path / "b.png"))


def test_bins_without_tokens(tmp_path: Path) -> None:
    empty = synthetic.bins([None, 0.0, None], [0, 0])
    assert_drawn(figures.token_bins(BINS[0], empty, tmp_path / "a.png"))


def test_reward_curve_of_one_step_and_of_a_resumed_run(tmp_path: Path) -> None:
    assert_drawn(figures.reward_curve([{"step": 1, "reward": 0.5}], [1], 1, tmp_path / "a.png"))
    twice = [{"step": 1, "reward": 0.1}, {"step": 2, "loss": 1.0}, {"step": 1, "reward": 0.9}]
    once = [{"step": 1, "reward": 0.9}]
    first = pixels(figures.reward_curve(twice, [], None, tmp_path / "b.png"))
    second = pixels(figures.reward_curve(once, [], None, tmp_path / "c.png"))
    assert np.array_equal(first, second), "of a step that ran twice the later row counts"


def test_smoothing_keeps_a_constant_and_a_line_and_invents_no_ends() -> None:
    line = np.arange(40, dtype=np.float64)
    assert smooth(np.full(7, 2.5, dtype=np.float64), 5) == pytest.approx(np.full(7, 2.5))
    assert smooth(line, 5)[2:-2] == pytest.approx(line[2:-2])
    assert smooth(line, 5)[0] == pytest.approx(1.0)  # mean of 0, 1, 2
    assert [smoothing_window(n) for n in (1, 9, 10, 100, 1000)] == [1, 1, 5, 5, 51]


@pytest.mark.parametrize("last", [None, 5, 60, 100, 10_000])
def test_horizon_curve_wherever_the_last_step_lies(last: int | None, tmp_path: Path) -> None:
    assert_drawn(figures.horizon_curve(SCORES["rows"], last, tmp_path / "a.png"))


def test_axes_hold_a_score_far_above_all_others(tmp_path: Path) -> None:
    rows = [row for row in SCORES["rows"] if row["kind"] in {"base", "rl"}]
    high = {"avg@k": 0.9, "ci95": [0.89, 0.91], "chosen": False}
    logit = {**TEST_ROWS[-1], **high}
    weight = {**logit, "kind": "weight", "method": "two_point", "step": 120}
    for draw, row, colour in (
        (lambda p: figures.alpha_curve([*rows, logit], "rl-100", p), logit, LIGHT.logit),
        (lambda p: figures.horizon_curve([*rows, weight], 60, p), weight, LIGHT.methods[0]),
    ):
        image = pixels(draw(tmp_path / f"{row['kind']}.png"))
        below_legend = image[round(0.45 * DPI) :]
        assert share_of(below_legend, colour, 0.05) > 5e-5


def test_panels_that_share_an_axis_both_hold_their_data(tmp_path: Path) -> None:
    """The test panel, drawn last, lies far below the validation panel."""
    rows = [row for row in SCORES["rows"] if row["kind"] in {"logit", "weight"}]
    low = {"avg@k": 0.02, "ci95": [0.01, 0.03]}
    rows = [{**row, **low} if row["split"] == "test" else row for row in rows]
    image = pixels(figures.alpha_curve(rows, "rl-100", tmp_path / "a.png"))
    right = image[round(0.45 * DPI) :, image.shape[1] // 2 :]
    assert share_of(right, LIGHT.logit, 0.05) > 5e-4


def test_score_figures_of_a_single_row(tmp_path: Path) -> None:
    weight = [row for row in SCORES["rows"] if row["kind"] == "weight"][:1]
    logit = [row for row in SCORES["rows"] if row["kind"] == "logit"][:1]
    assert_drawn(figures.horizon_curve(weight, None, tmp_path / "a.png"))
    assert_drawn(figures.alpha_curve(logit, "rl-1", tmp_path / "b.png"))
    zero = [{**weight[0], "avg@k": 0.0, "ci95": [0.0, 0.0], "diff_to_last_rl": None}]
    assert_drawn(figures.horizon_curve(zero, None, tmp_path / "d.png"))
    assert_drawn(figures.model_bars(zero, ["a very long label " * 9], "rl-1", tmp_path / "c.png"))


def test_an_interval_that_rounding_put_beside_its_score_is_no_error(tmp_path: Path) -> None:
    rows = [{**TEST_ROWS[0], "avg@k": 0.3, "ci95": [0.1 + 0.2, 0.1 + 0.2]}]  # 0.30000000000000004
    assert_drawn(figures.alpha_curve(rows, "rl-1", tmp_path / "a.png"))


def test_many_tasks_and_methods_get_a_panel_each(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {**row, "task": task, **({"method": method} if row["kind"] == "weight" else {})}
        for task in ("aime24", "aime25", "math500")
        for method in ("two_point", "rank1")
        for row in SCORES["rows"]
        if row["split"] == "test"
    ]
    one = pixels(figures.horizon_curve(TEST_ROWS, 60, tmp_path / "a.png"))
    three = assert_drawn(figures.horizon_curve(rows, 60, tmp_path / "b.png"))
    assert three.shape[0] > 1.5 * one.shape[0]


def test_ticks_keep_the_ends_and_what_matters_and_do_not_collide() -> None:
    values = [float(v) for v in range(101)]
    ticks = pick_ticks(values, 5.0, 0.5, [63.0])
    assert {0.0, 63.0, 100.0} <= set(ticks)
    assert min(b - a for a, b in pairwise(ticks)) >= 10.0
    assert pick_ticks([3.0, 3.0], 5.0, 0.5) == [3.0]
    assert pick_ticks([], 5.0, 0.5) == []


def test_text_that_the_font_lacks_is_escaped_and_long_text_cut() -> None:
    assert printable("a\nb 中") == "a⏎b \\u4e2d"
    assert shorten("abcdefghij", 5) == "ab…ij"
    assert shorten("abc", 5) == "abc"
