"""Sampling to a file: whole after kills, nothing twice, the contract's fields."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import read_jsonl
from pipeline.inference.engine import open_engine, sampling_hash
from pipeline.inference.run import random_key, read_keys, row_key, sample_to_jsonl
from tests.inference import killed_run
from tests.inference.killed_run import IDENTITY, SAMPLING

ROOT = Path(__file__).parents[2]


def test_a_killed_run_goes_on(first: Path, tmp_path: Path) -> None:
    """Rows lost, doubled or different after SIGKILL in the middle of a line."""
    out, whole = tmp_path / "generations.jsonl", tmp_path / "whole.jsonl"
    for after in (17, 23):
        child = subprocess.run(
            [sys.executable, "-m", killed_run.__name__, str(first), str(out), str(after)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    survived = len(read_jsonl(out))
    assert 17 < survived < 60
    engine = open_engine("hf", first)
    assert sample_to_jsonl(engine, killed_run.items(), SAMPLING, out, **IDENTITY) == 60 - survived
    assert sample_to_jsonl(engine, killed_run.items(), SAMPLING, whole, **IDENTITY) == 60
    rows, wanted = read_jsonl(out), read_jsonl(whole)
    assert len({row_key(row) for row in rows}) == len(rows) == 60
    rows, wanted = sorted(rows, key=row_key), sorted(wanted, key=row_key)
    sums = [[row.pop("logprob") for row in part] for part in (rows, wanted)]
    assert sums[0] == pytest.approx(sums[1], abs=2e-4)  # the last bits depend on the batch
    assert rows == wanted


def test_only_what_is_missing_is_made(first: Path, tmp_path: Path) -> None:
    """A rerun that adds rows, or a larger n, another model or another seed that adds none."""
    out = tmp_path / "generations.jsonl"
    engine = open_engine("hf", first)
    items = killed_run.items()

    def made(sampling: object = SAMPLING, **changed: str) -> int:
        return sample_to_jsonl(engine, items, sampling, out, **{**IDENTITY, **changed})  # type: ignore[arg-type]

    assert made() == 60
    assert made() == 0
    assert made(replace(SAMPLING, n=5)) == 40
    assert made(replace(SAMPLING, seed=9)) == 60
    assert made(fingerprint="f1") == 60
    items[0] = replace(items[0], token_ids=(5, 5, 5))  # another prompt for the same problem
    assert made() == 3
    assert len(read_keys(out)) == len(read_jsonl(out)) == 223


def test_rows_hold_the_contract(first: Path, tmp_path: Path) -> None:
    """A field that grading or the report reads and that is missing or wrong."""
    out = tmp_path / "generations.jsonl"
    engine = open_engine("hf", first)
    items = killed_run.items()
    sample_to_jsonl(engine, items, SAMPLING, out, **IDENTITY, extra={"alpha": 1.5})
    row = next(r for r in read_jsonl(out) if r["problem_id"] == "p3" and r["sample"] == 1)
    [wanted] = engine.generate(
        [items[3].token_ids], SAMPLING, keys=[random_key(items[3])], samples=[[1]]
    )
    assert row == {
        "task": "letters",
        "split": "test",
        "problem_id": "p3",
        "sample": 1,
        **IDENTITY,
        "sampling": sampling_hash(SAMPLING),
        "seed": 2,
        "alpha": 1.5,
        "prompt": row["prompt"],
        "prompt_tokens": len(items[3].token_ids),
        "tokens": len(wanted.token_ids),
        "text": wanted.text,
        "finish_reason": wanted.finish_reason,
        "logprob": pytest.approx(wanted.logprob, abs=2e-4),
    }
