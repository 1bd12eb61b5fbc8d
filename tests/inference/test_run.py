"""Sampling to a file: whole after kills, nothing twice, the contract's fields."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.artifacts import append_jsonl, read_jsonl, write_jsonl
from pipeline.errors import PipelineError
from pipeline.inference import run
from pipeline.inference.interface import sampling_hash
from pipeline.inference.logprobs import Text, probe_logprobs
from pipeline.inference.open import open_engine
from pipeline.inference.run import own_file, random_key, read_keys, row_key, sample_to_jsonl
from tests.inference import killed_run
from tests.inference.killed_run import IDENTITY, SAMPLING
from tests.inference.pico import save_model

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


def row(sample: int, sampling: str, text: str = "a") -> dict[str, object]:
    problem = {"task": "t", "split": "test", "problem_id": "p", "prompt": "q"}
    return {**IDENTITY, **problem, "sample": sample, "sampling": sampling, "text": text}


def samples(path: Path, sampling: str) -> list[int]:
    rows = read_jsonl(path)
    assert {found["sampling"] for found in rows} <= {sampling}
    return [found["sample"] for found in rows]


def test_a_file_of_several_settings_comes_apart(tmp_path: Path) -> None:
    """Rows of one setting that hide behind another's first row and are drawn again, rows that go
    aside under the wrong name, and a file of rows that another one is written over."""
    path, own = tmp_path / "generations.jsonl", sampling_hash(SAMPLING)
    one, two = tmp_path / "generations-one.jsonl", tmp_path / "generations-two.jsonl"
    append_jsonl(one, [row(0, "one"), row(7, "one")])
    mixed = [
        row(0, "one"),
        row(1, "one"),
        row(0, own),
        row(3, "two"),
        row(1, own),
        row(0, "one", "b"),
    ]
    append_jsonl(path, mixed)
    own_file(path, SAMPLING)
    assert samples(path, own) == [0, 1]
    assert samples(one, "one") == [0, 7, 1, 0]  # the same sample with another text is kept, too
    assert samples(two, "two") == [3]
    before = [file.read_bytes() for file in (path, one, two)]
    own_file(path, SAMPLING)
    assert [file.read_bytes() for file in (path, one, two)] == before


def test_rows_of_this_setting_in_two_files_are_each_there_once(tmp_path: Path) -> None:
    """A file that somebody copied back by hand, beside the one that was put aside."""
    path, own = tmp_path / "generations.jsonl", sampling_hash(SAMPLING)
    append_jsonl(tmp_path / f"generations-{own}.jsonl", [row(0, own), row(2, own)])
    append_jsonl(path, [row(0, own), row(1, own)])
    own_file(path, SAMPLING)
    assert samples(path, own) == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("after", range(3))
def test_a_kill_while_rows_move_loses_none_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Rows that are in neither file, or in both for good."""
    path, own = tmp_path / "generations.jsonl", sampling_hash(SAMPLING)
    append_jsonl(path, [row(n, setting) for n in range(3) for setting in ("one", own, "two")])
    writes = iter(range(after))

    def write(target: Path, rows: object) -> None:
        if next(writes, None) is None:
            with target.open("a") as file:
                file.write('{"torn')
            raise KeyboardInterrupt
        write_jsonl(target, rows)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_jsonl", write)
        with pytest.raises(KeyboardInterrupt) if after < 2 else contextlib.nullcontext():
            own_file(path, SAMPLING)
    own_file(path, SAMPLING)
    assert samples(path, own) == [0, 1, 2]
    for name in ("one", "two"):
        assert samples(tmp_path / f"generations-{name}.jsonl", name) == [0, 1, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused_by_the_models_name(
    tmp_path: Path, temperature: float
) -> None:
    """A model that overflows and is scored as if it had answered, or a traceback from JSON."""
    folder = save_model(tmp_path / "model", seed=0)
    edited = load_file(folder / "model.safetensors")
    edited["model.norm.weight"] *= 1e39
    save_file(edited, folder / "model.safetensors", metadata={"format": "pt"})
    engine, out = open_engine("hf", folder), tmp_path / "generations.jsonl"
    items, sampling = killed_run.items(), replace(SAMPLING, temperature=temperature)
    with pytest.raises(PipelineError, match=r"m-7: its logits are NaN or infinite.*float32"):
        sample_to_jsonl(engine, items, sampling, out, **{**IDENTITY, "model": "m-7"})
    assert read_jsonl(out) == []
    texts = [Text(items[0].token_ids, (5, 6))]
    with pytest.raises(PipelineError, match=r"step 0 .*NaN or infinite"):
        probe_logprobs(engine, texts, {0: folder, 3: folder, 4: folder}, tmp_path, 0.1, 2)
