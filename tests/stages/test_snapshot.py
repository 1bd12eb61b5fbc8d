"""Checkpoints in, plain model folders out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.artifacts import hash_file, read_json
from tests.conftest import on_checkpoints, run_pipeline


def test_an_exported_step_is_the_checkpoint(pico_run: Path, tmp_path: Path) -> None:
    """Would catch an export that rounds, or that takes another step."""
    source = pico_run / "rl_train" / "snapshots"
    done = run_pipeline(
        *on_checkpoints(pico_run),
        "stages=[snapshot]",
        "snapshot.export=[3]",
        f"run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "run" / "snapshot" / "exported" / "step_3"
    assert hash_file(made / "model.safetensors") == hash_file(
        source / "step_3" / "model.safetensors"
    )
    assert (made / "tokenizer.json").exists()


def test_a_hub_repository_with_a_revision_a_step(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a hub id taken for a folder, a revision taken for another step, a network call.

    The cache is laid out as downloads leave it: refs/REVISION names the snapshot's commit.
    """
    sources = {f"step_{step}": pico_run / f"rl_train/snapshots/step_{step}" for step in (2, 4, 6)}
    for repo, revisions in {
        "models--lab--run": sources,
        "models--lab--base": {"main": pico_run / "sft_train" / "model"},
    }.items():
        folder = tmp_path / "hub" / repo
        (folder / "refs").mkdir(parents=True)
        for i, (revision, source) in enumerate(revisions.items()):
            shutil.copytree(source, folder / "snapshots" / (f"{i}" * 40))
            (folder / "refs" / revision).write_text(f"{i}" * 40)
    arguments = [
        "+experiment=from_checkpoints",
        "tracking.mode=disabled",
        "snapshot.base=lab/base",
        "stages=[snapshot,weight_extrap]",
        "weight_extrap.targets=[8]",
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    run_dir = tmp_path / "run"
    done = run_pipeline(*arguments, "snapshot.source=hub:lab/run", f"run.dir={run_dir}", **offline)
    assert done.returncode == 0, done.stderr
    recorded = read_json(run_dir / "snapshot" / "trajectory.json")
    assert recorded["steps"] == [0, 2, 4, 6]
    assert recorded["checkpoints"][2]["path"].endswith("1" * 40)
    assert (run_dir / "weight_extrap/two_point/step_8/model.safetensors").exists()
    lost = run_pipeline(
        *arguments, "snapshot.source=lab/none", f"run.dir={tmp_path / 'x'}", **offline
    )
    assert lost.returncode == 1
    assert "lab/none: no revisions named global_step_N, " in lost.stderr


EARLY = [
    (["extrapolation.last=5"], "no checkpoint of step 5; there are 0, 1, 2, 3, 4, 6"),
    (
        ["extrapolation=rank1", "extrapolation.first=1", "extrapolation.last=2"],
        "rank1 needs 3 checkpoints, steps 1 to 2 hold 2",
    ),
    (["model.parameters=1e15"], "GB to write"),
    (["extrapolation.hold=['*nrom*']"], "extrapolation.hold: '*nrom*' matches no tensor"),
    (
        [
            "extrapolation.options={damping:0.5}",
            "extrapolation.last=4",
            "weight_extrap.targets=[3]",
        ],
        "weight_extrap.targets: 3 is before extrapolation.last=4",
    ),
]


@pytest.mark.parametrize(("changes", "message"), EARLY)
def test_what_cannot_be_extrapolated_is_refused_before_any_work(
    changes: list[str], message: str, pico_run: Path, tmp_path: Path
) -> None:
    """Would catch a mistake that is found after the checkpoints were read, or a model trained."""
    source = tmp_path / "source"
    shutil.copytree(pico_run / "rl_train" / "snapshots", source)
    shutil.rmtree(source / "step_5")
    done = run_pipeline(
        *on_checkpoints(pico_run),
        f"snapshot.source={source}",
        f"run.dir={tmp_path / 'run'}",
        *changes,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_target_before_the_last_step_is_refused_before_any_training(tmp_path: Path) -> None:
    """Would catch a mistake that is found when hours of training are over."""
    folder = tmp_path / "run"
    changes = ["extrapolation=gated", "extrapolation.last=4", "weight_extrap.targets=[3]"]
    done = run_pipeline("+experiment=pico", *changes, f"run.dir={folder}")
    assert done.returncode == 1
    assert "weight_extrap.targets: 3 is before extrapolation.last=4" in done.stderr
    assert not folder.exists()


def test_a_hub_source_is_not_fetched_for_a_dry_run(tmp_path: Path) -> None:
    """Would catch a dry run that downloads."""
    done = run_pipeline(
        "+experiment=from_checkpoints", "snapshot.source=nobody/nothing", "dry_run=true"
    )
    assert done.returncode == 0, done.stderr
    assert "nobody/nothing on the hub" in done.stdout


def test_copies_among_the_checkpoints_are_said(pico_run: Path, tmp_path: Path) -> None:
    """Would catch a path that stands still unnoticed: a folder copied under the next step's name,
    or a trainer that saved the frozen base every time."""
    models = [pico_run / f"rl_train/snapshots/step_{step}" for step in (2, 4)]
    for step, model in ((1, models[0]), (2, models[1]), (3, models[1])):
        shutil.copytree(model, tmp_path / f"run/step_{step}")
        shutil.copytree(models[0], tmp_path / f"still/step_{step}")
    arguments = ["+experiment=from_checkpoints", "tracking.mode=disabled", "stages=[snapshot]"]
    arguments += ["extrapolation.first=1"]

    def made(name: str) -> tuple[int, str]:
        place = [f"snapshot.source={tmp_path / name}", f"run.dir={tmp_path / 'out' / name}"]
        done = run_pipeline(*arguments, *place)
        return done.returncode, done.stdout + done.stderr

    code, said = made("run")
    assert code == 0, said
    assert "(3 as 2): leave out" in said
    code, said = made("still")
    assert code == 1
    assert f"{tmp_path / 'still/step_3'}: the weights of all 3 checkpoints are the same" in said
