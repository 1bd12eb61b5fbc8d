"""Log-probs of fixed responses over checkpoints that lie on a line in weight space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from pipeline.artifacts import read_jsonl
from pipeline.inference.interface import Sampling
from pipeline.inference.logprobs import fixed_texts, probe_logprobs, r2_bins
from pipeline.inference.open import open_engine
from pipeline.inference.run import PromptItem
from tests.inference.line import save_line
from tests.inference.pico import prompts_of

SAMPLING = Sampling(max_tokens=8, n=2, seed=1)


@pytest.fixture
def paths(first: Path, tmp_path: Path) -> dict[int, Path]:
    """Four checkpoints, each a small step further along one direction."""
    return save_line(first, tmp_path)


def test_series_are_the_checkpoints_log_probs(paths: dict[int, Path], tmp_path: Path) -> None:
    """Scores of another checkpoint, another token, or of re-encoded text; a restart that scores
    anew what is saved."""
    items = [PromptItem("t", "test", f"p{i}", tuple(p)) for i, p in enumerate(prompts_of(6))]
    engine = open_engine("hf", paths[0])
    limits: dict[str, Any] = {"min_change": 0.02, "min_unique": 3}
    texts = fixed_texts(engine, items, SAMPLING, paths[0], tmp_path, 40)
    report = probe_logprobs(engine, texts, paths, tmp_path, **limits)
    assert 40 <= report["tokens_total"] < 48
    assert 0 < report["tokens_kept"] < report["tokens_total"]
    assert report["r2_median"] > 0.9
    rows = read_jsonl(tmp_path / "responses.jsonl")
    assert len(rows) == 12
    saved = load_file(tmp_path / "logprobs.safetensors")
    assert sorted(saved) == ["step_0", "step_10", "step_20", "step_40"]
    for step, path in paths.items():
        engine.load_weights(path)
        scores = engine.score(
            [items[int(r["problem_id"][1:])].token_ids for r in rows],
            [r["token_ids"] for r in rows],
        )
        every = np.sort(np.array([s for row in scores for s in row]))
        nearest = every[np.abs(every[:, None] - saved[f"step_{step}"].numpy()).argmin(axis=0)]
        np.testing.assert_allclose(nearest, saved[f"step_{step}"], atol=1e-5)
    example = report["examples"][0]
    np.testing.assert_allclose(
        example["values"], [saved[f"step_{s}"][example["index"]] for s in sorted(paths)], rtol=1e-6
    )
    assert len(example["token"]) >= 1
    assert example["context"] != ""

    def fail(*_: object) -> None:
        raise AssertionError("scored again")

    engine.score = fail  # type: ignore[method-assign, assignment]
    assert probe_logprobs(engine, texts, paths, tmp_path, **limits) == report


def test_bins_hold_every_token_once(paths: dict[int, Path], tmp_path: Path) -> None:
    """Tokens counted twice or lost at a bin's edge; bins of probability filled by log-prob; a
    filter other than that of the headline figures."""
    items = [PromptItem("t", "test", f"p{i}", tuple(p)) for i, p in enumerate(prompts_of(6))]
    engine = open_engine("hf", paths[0])
    texts = fixed_texts(engine, items, SAMPLING, paths[0], tmp_path, 40)
    report = probe_logprobs(engine, texts, paths, tmp_path, min_change=0.06, min_unique=4)
    saved = load_file(tmp_path / "logprobs.safetensors")
    values = np.stack([saved[f"step_{step}"].numpy() for step in sorted(paths)]).astype(np.float64)
    r2 = np.array([np.corrcoef(sorted(paths), series)[0, 1] ** 2 for series in values.T])
    kept = np.abs(values[-1] - values[0]) > 0.06
    assert 0 < kept.sum() < kept.size
    for key, by in (
        ("r2_by_base_probability", np.exp(values[0])),
        ("r2_by_change", values[-1] - values[0]),
    ):
        rows = report[key]
        assert sum(row["total"] for row in rows) == report["tokens_total"]
        assert sum(row["kept"] for row in rows) == report["tokens_kept"]
        assert sum(row["total"] > 0 for row in rows) > 2
        for row in rows:
            low = -np.inf if row["low"] is None else row["low"]
            high = np.inf if row["high"] is None else row["high"]
            inside = (by >= low) & (by < high)
            assert row["total"] == inside.sum()
            for name, chosen in (("r2_median", inside & kept), ("r2_median_unfiltered", inside)):
                if chosen.any():
                    assert row[name] == pytest.approx(np.median(r2[chosen]), abs=2e-4)
                else:
                    assert row[name] is None


def test_a_token_on_an_edge_lies_in_one_bin() -> None:
    """Probability 1 outside the last bin, or an edge value in the bin below it."""
    by = np.array([0.0, 0.5, 1.0], np.float32)
    r2 = np.array([0.1, 0.2, 0.3], np.float32)
    rows = r2_bins(by, r2, np.array([True, False, True]), (0.0, 0.5, 1.0))
    assert [(row["total"], row["kept"]) for row in rows] == [(1, 1), (2, 1)]
    assert rows[1]["r2_median"] == pytest.approx(0.3)
    assert rows[1]["r2_median_unfiltered"] == pytest.approx(0.25)
