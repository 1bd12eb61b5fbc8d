"""Scores do not hang on the order of rows: an evaluation in parts, or one that was killed, has them
in another order than one process. Faults caught: sums, sign flips, blocks of votes and ties by
that."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.collapse import judge
from pipeline.evaluation.metrics import score_groups
from pipeline.evaluation.tally import tally
from pipeline.stages import evaluate
from tests.stages.contexts import context_of

MODELS, PROBLEMS, K = ("base", "rl-4", "weight-6"), 33, 5


def rows_of(rng: random.Random) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Responses and grades: shares of fifths, sums of decimals, few answers, so that many tie."""
    rows = []
    for model in MODELS:
        kind, _, step = model.partition("-")
        for problem, sample in ((p, s) for p in range(PROBLEMS) for s in range(K)):
            tokens = rng.randrange(1, 40 if kind == "weight" else 10)
            row = {
                "model": model,
                "kind": kind,
                "step": int(step or 0),
                "task": "sums",
                "split": "test",
                "problem_id": str(problem),
                "sample": sample,
                "tokens": tokens,
                "finish_reason": "stop",
                "logprob": round(-tokens * rng.random(), 4),
            }
            found = rng.choice(["1", "2", "3", None])
            grade = {"correct": found == "1", "status": "ok", "prediction": found}
            rows.append((row, grade))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_rows_have_the_same_scores(seed: int) -> None:
    """To the byte."""
    rng = random.Random(seed)
    pairs = rows_of(rng)
    told = []
    for turn in range(3):
        if turn:
            rng.shuffle(pairs)
            pairs.sort(key=lambda pair: MODELS.index(pair[0]["model"]))
        groups = tally([row for row, _ in pairs], [grade for _, grade in pairs])
        rows = score_groups(groups, last_rl="rl-4", start="base", pass_k=[1, 3], resamples=300)
        judged = {str(key): asdict(found) for key, found in judge(groups, "rl-4").items()}
        told.append(json.dumps([rows, judged]))
    assert told[0] == told[1] == told[2]


def test_an_evaluation_whose_files_are_shuffled(pico_run: Path, tmp_path: Path) -> None:
    """The whole of scores.json, with the controls and what logit_extrap drew, to the byte."""
    run = tmp_path / "run"
    for name in ("snapshot", "weight_extrap", "logit_extrap", "evaluate"):
        shutil.copytree(pico_run / name, run / name)
    shutil.copy(pico_run / "config.yaml", run)
    rng = random.Random(0)
    files = [run / "evaluate" / "generations.jsonl", *run.glob("evaluate/controls/*.jsonl")]
    for file in files:
        lines = file.read_text().splitlines(keepends=True)
        rng.shuffle(lines)
        file.write_text("".join(lines))
    (run / "evaluate" / "scores.json").unlink()
    evaluate.run(context_of(run))
    assert len(files) > 3
    made, first = (folder / "evaluate" / "scores.json" for folder in (run, pico_run))
    assert made.read_bytes() == first.read_bytes()
