"""A run that names, ties and cuts its tensors otherwise than its base, through all stages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.artifacts import read_json, read_jsonl
from tests.conftest import PICO, run_pipeline
from tests.trajectory.real import Tensors, edited

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
STAGES = "stages=[snapshot,linear_probe,weight_extrap,logit_extrap,evaluate]"


def untied(folder: Path, out: Path, change: bool) -> Path:
    """A checkpoint with a head of its own, plainly stored; moved if `change`."""

    def with_head(tensors: Tensors) -> Tensors:
        head = tensors[EMBEDDING].clone()
        if change:
            head += 0.02 * torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
        return tensors | {HEAD: head}

    return edited(folder, out, with_head, lambda c: c.update(tie_word_embeddings=False))


def responses(run_dir: Path) -> set[tuple[str, ...]]:
    keys = ("model", "split", "problem_id", "sample", "text")
    rows = read_jsonl(run_dir / "evaluate/generations.jsonl")
    return {tuple(str(row[key]) for key in keys) for row in rows}


def test_other_names_and_ties_give_what_plain_files_give(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a stage or an engine that reads the run's files as they are, or whose head is
    still the base's: names under an unknown prefix and a wrapper, and a flag that says tied."""
    base = pico_run / "sft_train/model"
    assert AutoConfig.from_pretrained(base).tie_word_embeddings
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    for step in (2, 3, 4):
        given = pico_run / f"rl_train/snapshots/step_{step}"
        edited(
            untied(given, plain / f"step_{step}", change=True),
            odd / f"step_{step}",
            lambda tensors: {f"actor._orig_mod.{n}": t for n, t in tensors.items()},
            lambda values: values.update(tie_word_embeddings=True),
        )
    plain_base = untied(base, tmp_path / "base", change=False)
    options = [STAGES, "extrapolation.last=4", "weight_extrap.write=false"]
    found = {}
    for source, start, more in (
        (plain, plain_base, []),
        (odd, base, ["snapshot.rename={actor.:''}"]),
    ):
        run_dir = tmp_path / f"run_{source.name}"
        done = run_pipeline(
            *PICO,
            *options,
            *more,
            f"run.dir={run_dir}",
            f"snapshot.source={source}",
            f"snapshot.base={start}",
        )
        assert done.returncode == 0, done.stderr
        found[source] = run_dir
    assert responses(found[odd]) == responses(found[plain])
    for name in ("weights", "logprobs", "activations"):
        one, other = (read_json(d / f"linear_probe/{name}.json") for d in found.values())
        assert one["r2_median"] == other["r2_median"], name
    recorded = read_json(found[odd] / "snapshot/trajectory.json")
    assert recorded["tied"] == []
    assert [c["respelled"] for c in recorded["checkpoints"]] == [False, True, True, True]
    made: Any = AutoModelForCausalLM.from_pretrained(found[odd] / "snapshot/exported/step_0")
    assert not made.config.tie_word_embeddings
    assert torch.equal(made.lm_head.weight, made.model.embed_tokens.weight)


BAD = [
    (["snapshot.only_in_base=take"], "snapshot.only_in_base: 'take' is not one of refuse, keep"),
    (["snapshot.rename=[model.]"], "snapshot.rename: ['model.'] is no map"),
    (["snapshot.rename={model.: 7}"], "snapshot.rename: 'model.': 7 is not the beginning"),
    (["snapshot.rename={modle.: model.}"], "no tensor's name begins with 'modle.'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_values_are_named_before_any_work(
    pico_run: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    done = run_pipeline(
        "+experiment=from_checkpoints",
        "tracking.mode=disabled",
        f"snapshot.source={pico_run / 'rl_train' / 'snapshots'}",
        f"run.dir={tmp_path / 'run'}",
        *changes,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_named_model_with_a_head_of_its_own(pico_run: Path, tmp_path: Path) -> None:
    """A run with tied heads, and beside it a model that is not."""
    run_dir = tmp_path / "run"
    shutil.copytree(pico_run, run_dir)
    other = untied(pico_run / "rl_train/snapshots/step_4", tmp_path / "other", change=False)
    arguments = [*PICO, f"run.dir={run_dir}", "stages=[evaluate]"]
    done = run_pipeline(*arguments, f"evaluate.models={{own:{other}}}")
    assert done.returncode == 0, done.stderr
    rows = read_json(run_dir / "evaluate/scores.json")["rows"]
    scores = {(row["model"], row["split"]): row["avg@k"] for row in rows}
    assert scores["own", "test"] == scores["rl-4", "test"]
    assert (run_dir / "snapshot/exported/step_0/config.json").exists()
