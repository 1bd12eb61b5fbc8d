"""Faults caught: a method's points in another's line, real RL missing beside them, a test score in
what a sweep maximises."""

from __future__ import annotations

from pipeline.report.charts import best_on_validation, charts

ROWS = [
    ("base", "base", None, 0, None, 0.1),
    ("rl-4", "rl", None, 4, None, 0.2),
    ("rank1-8", "weight", "rank1", 8, 2.0, 0.4),
    ("rank1-6", "weight", "rank1", 6, 1.5, 0.3),
    ("logit-1.5", "logit", None, 6, 1.5, 0.35),
]
COLUMNS = ("model", "kind", "method", "step", "alpha", "avg@k")
SCORES = {
    "rows": [
        {**dict(zip(COLUMNS, row, strict=True)), "task": "m", "split": "test"} for row in ROWS
    ],
    "chosen": {"weight": {"model": "rank1-8", "validation avg@k": 0.45}},
}


def test_lines_over_the_step_and_over_alpha() -> None:
    horizon, alpha = charts(SCORES)
    assert (horizon.name, horizon.x) == ("horizon/m/test", "step")
    assert horizon.lines == {
        "rl": [(0.0, 0.1), (4.0, 0.2)],
        "rank1": [(6.0, 0.3), (8.0, 0.4)],
        "logit": [(6.0, 0.35)],
    }
    assert (alpha.name, alpha.x) == ("alpha/m/test", "alpha")
    assert alpha.lines == {"rank1": [(1.5, 0.3), (2.0, 0.4)], "logit": [(1.5, 0.35)]}


def test_a_sweep_maximises_validation() -> None:
    assert best_on_validation(SCORES) == {"validation/weight": 0.45}
