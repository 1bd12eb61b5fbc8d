"""Step names: which are read, and what the others are told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.trajectory.names import parse
from pipeline.trajectory.sources import discover
from pipeline.trajectory.steps import find_steps, left_out
from tests.trajectory.pico import random_tensors, run_tensors, write_model

STEPS = [10, 20]
READ = [
    *["global_step_{}", "global_step{}", "global-step-{}", "checkpoint-{}", "checkpoint_{}"],
    *["checkpoint{}", "ckpt_{}", "ckpt-{}", "ckpt{}", "step_{}", "step-{}", "step{}", "step_{:08}"],
    *["iter_{:07}", "iter_{:07}_hf", "iter{}", "iteration_{}", "update_{}", "policy_{}", "{}"],
    *["{:06}", "run1_globalstep{}", "mineglobalstep{}", "qwen2.5-7b-step-{}", "checkpoint_step_{}"],
    *["epoch_1_step_{}", "epoch=0-step={}", "Step_{}", "global_step{}_hf"],
]
Room = Callable[..., Path]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A function that makes a run's folder with a checkpoint under each name ("x/": empty)."""
    model = write_model(tmp_path / "model", random_tensors(0))

    def make(*names: str) -> Path:
        for name in names:
            target = tmp_path / "run" / name
            if name.endswith("/"):
                target.mkdir(parents=True)
            else:
                shutil.copytree(model, target)
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("name", READ)
def test_the_common_names_are_read(tmp_path: Path, name: str) -> None:
    """Catches a trainer's spelling that is not known, and a step taken from a position."""
    run = run_tensors(STEPS)
    for step in reversed(STEPS):
        write_model(tmp_path / name.format(step), run[step])
    found = discover(tmp_path, None)
    assert found.steps == STEPS
    assert found.paths == {step: tmp_path / name.format(step) for step in STEPS}


@pytest.mark.parametrize(
    "name",
    [
        *["best", "final", "latest", "epoch_1", "step_1.5", "step_-1", "substep_10", "model_7b"],
        *["tmp-checkpoint-10", "checkpoint-10.tmp", ".step_10.partial", "old_step_10", "step_10k"],
        *["checkpoint-10-merged", "step_1٣", "checkpoint-99999999999999999999"],
    ],
)
def test_other_names_are_no_steps(name: str) -> None:
    """Catches an epoch, an unfinished save or a decimal taken for a step."""
    assert parse(name) is None


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "step twice": (["step_10", "step_010"], ["step 10 twice", "step_010 and step_10"]),
    "merged copy": (["global_step10", "global_step10_hf"], ["step 10 twice"]),
    "two runs": (["runA_step_10", "runB_step_20"], ["runA_step_10 and runB_step_20", "two runs"]),
    "two kinds": (["checkpoint-20", "step_10"], ["step_10 and checkpoint-20"]),
    "steps of epochs": (["epoch_0_step_100", "epoch_1_step_50"], ["begin anew in each epoch"]),
    "epochs": (["epoch_1", "epoch_2"], ["count epochs", "{100: ", "epoch_1, 200: "]),
    "no numbers": (["alpha", "beta"], ["alpha, beta say no step", "snapshot.checkpoints={100: "]),
    "own numbers": (["a-7", "a-9"], ["snapshot.checkpoints={7: ", "a-7, 9: "]),
    "one level down": (["ckpts/step_10", "ckpts/step_20"], ["snapshot.source=", "run/ckpts"]),
    "unfinished": (["step_10", "step_20/"], ["step_20: no weights", "is empty"]),
    "number without weights": (["10", "20", "30/"], ["step 30: ", "is empty"]),
    "nothing": (["logs/"], ["no checkpoints", "checkpoint-N", "there is logs"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_names_that_leave_a_step_open_are_refused(room: Room, case: str) -> None:
    """Catches two runs mixed, a checkpoint dropped without a word, and advice without the names."""
    names, words = REFUSED[case]
    with pytest.raises(PipelineError) as caught:
        discover(room(*names), None)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("step_10", ""),
        ("global_step_10/actor", ""),
        ("global_step_10/actor/huggingface", "actor/huggingface"),
        ("checkpoint-10", ""),
    ],
)
def test_a_single_checkpoint_is_no_run(room: Room, name: str, inside: str) -> None:
    """Catches "no checkpoints" for a checkpoint: its parent is what was meant."""
    run = room(name)
    top = run / name.split("/")[0]
    if name == "checkpoint-10":  # DeepSpeed's part of it is named like a step
        (top / "global_step10").mkdir()
        (top / "global_step10" / "x_optim_states.pt").touch()
    with pytest.raises(PipelineError) as caught:
        find_steps(top / inside)
    assert "not the folder of a run" in str(caught.value)
    assert f"snapshot.source={run}" in str(caught.value)


def test_a_model_given_as_a_run(room: Room) -> None:
    """Catches advice to give its parent where the folder's name says no step."""
    with pytest.raises(PipelineError, match=r"is one checkpoint.*snapshot\.checkpoints=\{100: "):
        find_steps(room("my model") / "my model")


def test_files_that_should_be_folders(tmp_path: Path) -> None:
    """Catches "one checkpoint" for a folder of files, one a step."""
    for step in STEPS:
        (tmp_path / f"step_{step}.safetensors").touch()
    with pytest.raises(PipelineError, match=r"step_10\.safetensors, .*a checkpoint is a folder"):
        find_steps(tmp_path)


def test_what_lies_beside_is_left_out_with_a_word(room: Room) -> None:
    """Catches `best` taken for a step, logs of ranks taken for steps, and silence about both."""
    run = room("checkpoint-10", "checkpoint-20", "best", "tmp-checkpoint-30", "0/", "logs/")
    (run / "latest").symlink_to("checkpoint-20")
    found = find_steps(run)
    assert sorted(found) == STEPS
    assert left_out(run, found) == ["best", "latest", "tmp-checkpoint-30"]


def test_links_as_steps(room: Room) -> None:
    """Catches a run that stands still by a link, and one that lost a step to a dead link."""
    run = room("step_10", "step_20", "elsewhere/a")
    (run / "step_30").symlink_to("step_20")
    with pytest.raises(PipelineError, match="steps 20 and 30 are the same folder"):
        find_steps(run)
    (run / "step_30").unlink()
    (run / "step_30").symlink_to("elsewhere/a")
    assert sorted(find_steps(run)) == [*STEPS, 30]
    (run / "step_40").symlink_to("/nowhere/at/all")
    with pytest.raises(PipelineError, match="step_40: is a link to /nowhere/at/all, which is not"):
        find_steps(run)


def test_the_base_is_no_second_step(room: Room, tmp_path: Path) -> None:
    """Catches movements of zero where the base is also a step, and a base that is not there."""
    run = room("step_10", "step_20")
    with pytest.raises(PipelineError, match="steps 0 and 10 are the same folder"):
        discover(run, run / "step_10")
    with pytest.raises(PipelineError, match=r"no such folder \(snapshot\.base\)"):
        discover(run, tmp_path / "none")
    with pytest.raises(PipelineError, match="folder of a run"):
        discover(run, run)
    assert discover(run, tmp_path / "model").steps == [0, *STEPS]


def test_paths_of_any_letters(tmp_path: Path) -> None:
    """Catches a pattern made of a path: brackets, stars and braces are letters of a name."""
    run = run_tensors(STEPS)
    odd = tmp_path / "a=b,c{d}[e]#~$*?дом 'x\" ${y}"
    for step in STEPS:
        write_model(odd / f"step_{step}", run[step], shards=2)
    found = discover(odd, None)
    assert found.steps == STEPS
    assert {len(c.files) for c in found.checkpoints.values()} == {2}
    assert left_out(odd, found.paths) == []
