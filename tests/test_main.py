"""The command line: mistakes are one line and exit code 1, and import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT, run_pipeline, start_pipeline

HEAVY = ("torch", "transformers", "trl", "vllm", "deepspeed", "wandb", "matplotlib", "datasets")

MISTAKES = {
    "rl_train.stepz=3": ("rl_train.stepz", "did you mean 'rl_train.steps'"),
    "rl_train.steps=abc": ("rl_train.steps", "Integer"),
    "task=nope": ("task=nope", "addition"),
    "+experiment=tinny": ("experiment=tinny", "did you mean 'tiny'"),
    "stages=[evalute]": ("stages", "did you mean 'evaluate'"),
    "stages=[]": ("stages", "empty"),
    "tracking.mode=loud": ("tracking.mode", "offline"),
    "extrapolation.last=-1": ("extrapolation.last", "must come after"),
    "weight_extrap.targets=[5,5]": ("weight_extrap.targets", "twice"),
    "logit_extrap.alphas=[nan]": ("logit_extrap.alphas", "finite"),
    "logit_extrap.speculative=-1": ("logit_extrap.speculative", "at least 0"),
    "evaluate.pass_k=[999]": ("evaluate.pass_k", "999"),
    "evaluate.top_p=1.5": ("evaluate.top_p", "at most 1"),
    "evaluate.temperature=-1": ("evaluate.temperature", "at least 0"),
    "model.path=/no/such/model": ("model.path", "neither a folder nor a hub id"),
    "rl_train.snapshot_dtype=delta_float16": ("rl_train.snapshot_dtype", "delta_bfloat16"),
    "compute.processes=2": ("compute.launcher=none", "deepspeed"),
    "snapshot.checkpoints=[a]": ("snapshot.checkpoints", "map"),
    "snapshot.checkpoints={x: a}": ("snapshot.checkpoints", "whole number"),
    "run.dir": ("run.dir", "key=value"),
    "task.options.digit=3": ("digit", "digits"),
    "eval_tasks.typo.name=x": ("eval_tasks.typo", "+task@eval_tasks.typo="),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_1(mistake: str) -> None:
    """Would catch a traceback, an advice of several lines, or a mistake that runs all the same."""
    experiment = [] if "experiment" in mistake else ["+experiment=tiny"]
    done = run_pipeline(*experiment, mistake)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for words in MISTAKES[mistake]:
        assert words in lines[0]
    assert done.stdout == ""


def test_verbose_shows_the_traceback() -> None:
    """Would catch a bug report that cannot be traced."""
    done = start_pipeline("+experiment=tiny", "stages=[nope]", "hydra.verbose=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["foo=1"], ["stages=[nope]"]])
def test_nothing_heavy_is_imported_for_help_or_mistakes(arguments: list[str]) -> None:
    """Would catch an import at the top of a module that makes --help take seconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & set(HEAVY)


def test_help_shows_how_to_start() -> None:
    """Would catch a help text that lost its commands."""
    done = start_pipeline("--help")
    assert done.returncode == 0
    assert "+experiment=tiny" in done.stdout
    assert "rl_train" in done.stdout
