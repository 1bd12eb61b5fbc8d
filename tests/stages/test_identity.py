"""Faults caught: responses of another dtype, engine, model, prompt or sampling that are taken for
those of this evaluation, ones that are made again although they are there, and a response that is
counted twice."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import append_jsonl, read_json, read_jsonl, write_json
from pipeline.evaluation import candidates, scoring
from pipeline.stages import evaluate, logit_extrap, snapshot
from pipeline.stages.base import Context
from tests.stages.contexts import context_of

LEFT = ("sft_train", "snapshot", "weight_extrap", "logit_extrap", "evaluate")


@pytest.fixture
def run_dir(pico_run: Path, tmp_path: Path) -> Path:
    """A copy of the pico run, whose checkpoints stay where they are."""
    copy = tmp_path / "run"
    copy.mkdir()
    for name in (*LEFT, "config.yaml"):
        (shutil.copytree if (pico_run / name).is_dir() else shutil.copy)(
            pico_run / name, copy / name
        )
    return copy


def generations(run_dir: Path) -> list[dict[str, Any]]:
    return read_jsonl(run_dir / "evaluate" / "generations.jsonl")


def rows_of(scores: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["model"], row["split"]): row for row in scores["rows"]}


def evaluated(context: Context) -> dict[tuple[str, str], dict[str, Any]]:
    evaluate.run(context)
    return rows_of(read_json(context.run_dir / "evaluate" / "scores.json"))


def test_another_dtype_finds_no_rows_and_the_first_one_all_of_its_own(run_dir: Path) -> None:
    before = generations(run_dir)
    scores = rows_of(read_json(run_dir / "evaluate" / "scores.json"))
    short = {"evaluate__checkpoints": [4]}
    half = context_of(run_dir, model__dtype="bfloat16", **short)
    logit_extrap.run(half)
    found = evaluated(half)
    new = generations(run_dir)[len(before) :]
    assert {row["model"] for row in new} == {model for model, _ in found}
    assert {(row["engine"], row["dtype"]) for row in new} == {("hf", "bfloat16")}
    assert {(row["engine"], row["dtype"]) for row in before} == {("hf", "float32")}
    count = len(generations(run_dir))
    again = evaluated(context_of(run_dir, **short))
    assert len(generations(run_dir)) == count
    for key, row in again.items():
        for each in (row, scores[key]):
            del each["maj@budget"]  # what the cheapest of the evaluated models spends
        assert row == scores[key]


def test_the_fingerprint_is_content_engine_and_dtype(run_dir: Path, tmp_path: Path) -> None:
    """Each thing that changes what a model says, by itself; and what changes nothing."""

    def prints(context: Context) -> list[str]:
        found = candidates.rl_candidates(context, [4])
        found += candidates.weight_candidates(context)
        found += candidates.logit_candidates(context, 0, 4)
        return [candidate.fingerprint for candidate in found]

    first = prints(context_of(run_dir))
    assert len(set(first)) == len(first) == 6
    for other in ({"engine__name": "vllm"}, {"model__dtype": "float16"}):
        assert not set(prints(context_of(run_dir, **other))) & set(first)
    same = {"engine__batch_size": 7, "compute__threads": 3, "model__attention": "eager"}
    assert prints(context_of(run_dir, **same)) == first


def moved(run_dir: Path, pico_run: Path, to: Path) -> Context:
    """The run after its checkpoints and base model were copied to `to`."""
    shutil.copytree(pico_run / "rl_train" / "snapshots", to / "snapshots")
    shutil.copytree(pico_run / "sft_train" / "model", to / "base")
    context = context_of(
        run_dir, snapshot__source=str(to / "snapshots"), snapshot__base=str(to / "base")
    )
    snapshot.run(context)
    return context


def test_models_that_were_moved_find_their_rows(
    run_dir: Path, pico_run: Path, tmp_path: Path
) -> None:
    before = generations(run_dir)
    scores = rows_of(read_json(run_dir / "evaluate" / "scores.json"))
    context = moved(run_dir, pico_run, tmp_path / "elsewhere")
    (tmp_path / "elsewhere/snapshots/step_4/notes.txt").write_text("nothing that decides")
    assert evaluated(context) == scores
    assert generations(run_dir) == before
    config = tmp_path / "elsewhere/base/config.json"
    write_json(config, read_json(config) | {"transformers_version": "9", "_name_or_path": "x"})
    logit_extrap.run(context)
    assert evaluated(context) == scores
    assert generations(run_dir) == before


SETTINGS = {
    "config.json": lambda value: value | {"rms_norm_eps": 0.5},
    "generation_config.json": lambda value: value | {"eos_token_id": [1, 2]},
    "tokenizer_config.json": lambda value: value | {"chat_template": "{{ messages }}"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_settings_beside_the_same_weights_are_another_model(
    name: str, run_dir: Path, pico_run: Path, tmp_path: Path
) -> None:
    context = moved(run_dir, pico_run, tmp_path / "elsewhere")
    [before] = candidates.rl_candidates(context, [])
    file = tmp_path / "elsewhere" / "base" / name
    write_json(file, SETTINGS[name](read_json(file)))
    [after] = candidates.rl_candidates(context, [])
    assert before.fingerprint != after.fingerprint


def test_rows_of_another_prompt_are_not_scored(run_dir: Path) -> None:
    """Four responses to each of two prompts of a problem are not eight to one."""
    context = context_of(run_dir, task__prompt_template="0+{problem}", evaluate__checkpoints=[4])
    found = evaluated(context)
    assert {row["samples_per_problem"] for row in found.values()} == {4}
    new = {row["prompt"] for row in generations(run_dir)}
    assert (
        len(new)
        == 2 * found["rl-4", "test"]["n_problems"] + 2 * (found["rl-4", "validation"]["n_problems"])
    )
    assert not [model for model, _ in found if model.startswith("logit")]


def test_copies_of_rows_count_once_and_are_named(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two files put together; of two texts of one response the first counts."""
    path = run_dir / "evaluate" / "generations.jsonl"
    rows = generations(run_dir)
    scores = rows_of(read_json(run_dir / "evaluate" / "scores.json"))
    append_jsonl(path, [rows[0], {**rows[1], "text": "77"}, *rows[5:9]])
    source = run_dir / "logit_extrap" / "generations.jsonl"
    drawn = read_jsonl(source)
    append_jsonl(source, [{**drawn[3], "text": "77"}])
    path.write_bytes(path.read_bytes().replace(b'"kind": "logit"', b'"kind": "logit"'))
    with caplog.at_level(logging.WARNING):
        assert evaluated(context_of(run_dir)) == scores
    assert f"{path}: 6 rows are there a second time" in caplog.text
    assert "1 of them with another text; the first of each is used" in caplog.text
    assert f"{source}: 1 rows are there a second time" in caplog.text


def test_logit_rows_that_were_not_drawn_so_are_left_out_with_a_word(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that is silently missing, or is scored on half of its responses."""
    with caplog.at_level(logging.WARNING):
        found = evaluated(
            context_of(run_dir, evaluate__samples_per_problem=5, evaluate__checkpoints=[4])
        )
    assert not [model for model, _ in found if model.startswith("logit")]
    assert "logit-1.25 has 184 of 230 responses of these settings and is left out" in caplog.text
    assert {row["samples_per_problem"] for row in found.values()} == {5}


def test_a_checkpoint_with_missing_rows_is_an_error(run_dir: Path) -> None:
    """Averages over the problems that happen to be there."""
    found = candidates.rl_candidates(context_of(run_dir), [4])
    rows = [{"model": found[0].fingerprint}] * 3
    with pytest.raises(Exception, match="base has 3 of 4 responses"):
        scoring._complete(found, 4, rows)
    with pytest.raises(Exception, match="base has 3 of 4"):
        scoring._complete([replace(found[0], extra={})], 4, rows)
