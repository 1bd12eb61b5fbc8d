"""Chat templates and end tokens of a run against its base's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_json, write_json
from pipeline.trajectory.conversation import check_conversation
from pipeline.trajectory.sources import discover
from tests.conftest import run_pipeline

SETTINGS, GENERATION = "tokenizer_config.json", "generation_config.json"
ASKING, SHOUTING = (
    {SETTINGS: {"chat_template": f"{{{{ messages[0].content }}}}{end}"}} for end in "?!"
)
Changes = dict[str, dict[str, Any]]


def checkpoints(pico_run: Path, place: Path, base: Changes, run: Changes) -> tuple[Path, Path]:
    """A base and a run of one checkpoint, with other values in their files."""
    shutil.copytree(pico_run / "sft_train/model", place / "base")
    shutil.copytree(pico_run / "rl_train/snapshots/step_2", place / "run/step_2")
    for folder, changes in ((place / "base", base), (place / "run/step_2", run)):
        for file, change in changes.items():
            write_json(folder / file, {**read_json(folder / file), **change})
    return place / "run", place / "base"


@pytest.mark.parametrize(
    ("base", "run", "said"),
    [
        ({}, {}, ""),
        (ASKING, ASKING, ""),
        (ASKING, {}, ""),  # trainers that keep no template
        ({GENERATION: {"eos_token_id": [1, 5]}}, {}, ""),  # stops where the run would by itself
        ({}, {GENERATION: {"eos_token_id": None}}, ""),
        (ASKING, SHOUTING, "the chat template of "),
        ({}, SHOUTING, "the chat template of "),
        ({}, {GENERATION: {"eos_token_id": 5}}, "end tokens (5, not only 1) of "),
        ({}, {SETTINGS: {"eos_token": "7"}}, "end tokens (9, not only 1) of "),
        (
            ASKING,
            {**SHOUTING, GENERATION: {"eos_token_id": [1, 5, 6]}},
            "the chat template and end tokens (5, 6, not only 1) of ",
        ),
    ],
)
def test_what_differs_is_named(
    base: Changes, run: Changes, said: str, pico_run: Path, tmp_path: Path
) -> None:
    """Would catch models asked in a template they never saw, or run on past their end of text,
    unnoticed; and a warning where nothing changes."""
    source, start = checkpoints(pico_run, tmp_path, base, run)
    whole = f"{said}{source / 'step_2'} differ from {start}'s" if said else ""
    assert check_conversation(discover(source, start)) == whole


def test_the_snapshot_stage_says_it(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a difference that is found and told to nobody."""
    source, start = checkpoints(pico_run, tmp_path, {}, {GENERATION: {"eos_token_id": 5}})
    place = [f"snapshot.source={source}", f"snapshot.base={start}", f"run.dir={tmp_path / 'out'}"]
    arguments = ["+experiment=from_checkpoints", "tracking.mode=disabled", "stages=[snapshot]"]
    done = run_pipeline(*arguments, *place)
    assert done.returncode == 0, done.stderr
    assert f"end tokens (5, not only 1) of {source / 'step_2'} differ" in done.stdout + done.stderr
