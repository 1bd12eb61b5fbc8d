"""A store of stages: what is found in it, what is continued, and that finished work never changes.

Training is not repeated here: the folders of a finished run stand in for it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import records
from pipeline.artifacts import hash_file, read_json, write_json
from pipeline.sharing import Store
from pipeline.stages.base import Context
from pipeline.turns import Owner
from tests.stages.contexts import context_of


def no_wait(held: Owner) -> None:
    raise AssertionError(f"waits for {held}")


@pytest.fixture
def store(pico_run: Path, tmp_path: Path) -> Store:
    """A store with the training of the finished run, as a sweep's first job would have left it."""
    made = Store(tmp_path / "shared")
    context = context_of(pico_run)
    for name in ("sft_train", "rl_train"):
        entry = made.folder / f"{name}-{context.done_key(name)[:16]}"
        shutil.copytree(pico_run / name, entry)
    return made


def job(pico_run: Path, folder: Path, **values: object) -> Context:
    """A run directory that nothing has been done in."""
    folder.mkdir()
    shutil.copy(pico_run / "config.yaml", folder)
    return context_of(folder, **values)


def prepare(store: Store, context: Context, name: str) -> str:
    with store.prepared(context, records.record(context, name), no_wait) as state:
        return state


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hash_file(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_finished_work_is_linked(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch a job that trains what another has trained, and artefacts noted under a path
    that is gone with the job that made them."""
    context = job(pico_run, tmp_path / "1")
    assert prepare(store, context, "sft_train") == "done"
    assert prepare(store, context, "rl_train") == "done"
    link = tmp_path / "1" / "rl_train"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert context.stage_dir("rl_train").parent == store.folder
    assert Store.of_run(tmp_path / "1") is None  # nobody has taken a turn in this store yet
    (store.folder / "turns").mkdir()
    assert Store.of_run(tmp_path / "1") == store


def test_more_steps_continue_on_a_copy(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch a longer run that changes what shorter ones read, trains their steps again, or
    writes through a hard link."""
    (entry,) = store.folder.glob("rl_train-*")
    before = files(entry)
    context = job(pico_run, tmp_path / "1", rl_train__steps=9)
    prepare(store, context, "sft_train")
    assert prepare(store, context, "rl_train") == "resume"
    copy = context.stage_dir("rl_train")
    assert copy.name == f"{entry.name}-2"
    assert not (copy / "done.json").exists()
    weights = "snapshots/step_6/model.safetensors"
    assert (copy / weights).stat().st_ino == (entry / weights).stat().st_ino
    records.begin(context, records.record(context, "rl_train"), resumed=True)
    with open(copy / "metrics.jsonl", "a") as file:
        file.write("{}\n")
    for path in copy.rglob("*.json"):
        write_json(path, {})
    assert files(entry) == before
    shorter = job(pico_run, tmp_path / "2", rl_train__steps=5)
    prepare(store, shorter, "sft_train")
    assert prepare(store, shorter, "rl_train") == "done"
    assert shorter.stage_dir("rl_train") == entry


def test_what_a_dead_job_has_begun_is_resumed(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch hours of training thrown away with the process that died in them."""
    (entry,) = store.folder.glob("rl_train-*")
    (entry / "done.json").unlink()
    shutil.rmtree(entry / "snapshots" / "step_6")
    shutil.rmtree(max((entry / "checkpoints").iterdir(), key=lambda path: path.name))
    context = job(pico_run, tmp_path / "1")
    prepare(store, context, "sft_train")
    assert prepare(store, context, "rl_train") == "resume"
    assert context.stage_dir("rl_train") == entry
    assert len(list(store.folder.glob("rl_train-*"))) == 1


def test_another_key_is_another_entry(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch jobs of different values that share a folder; and an empty one that a kill has
    left, which must not count as work."""
    context = job(pico_run, tmp_path / "1", algorithm__learning_rate=3e-4)
    prepare(store, context, "sft_train")
    assert prepare(store, context, "rl_train") == "run"
    assert not any(context.stage_dir("rl_train").iterdir())
    assert prepare(store, context, "rl_train") == "run"
    assert len(list(store.folder.glob("rl_train-*"))) == 2


def test_setting_aside_a_link_leaves_the_work(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch run.discard in one job that moves what the others read."""
    (entry,) = store.folder.glob("rl_train-*")
    context = job(pico_run, tmp_path / "1")
    for name in ("sft_train", "rl_train"):
        prepare(store, context, name)
    aside = records.set_aside(context, "rl_train")
    assert aside.is_symlink()
    assert aside.resolve() == entry
    assert not (tmp_path / "1" / "rl_train").is_symlink()
    assert prepare(store, context, "rl_train") == "done"
    assert records.set_aside(context, "rl_train") != aside


def test_a_folder_of_its_own_is_kept(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch a run's own work replaced by a link."""
    context = job(pico_run, tmp_path / "1")
    shutil.copytree(pico_run / "sft_train", tmp_path / "1" / "sft_train")
    assert not store.takes(context, "sft_train")
    assert store.takes(context, "rl_train")
    assert not store.takes(context, "report")
    store.adopt(context, records.record(context, "sft_train"))
    assert not (tmp_path / "1" / "sft_train").is_symlink()


def test_a_deleted_entry_is_made_again(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch a dangling link that counts as a folder, or is written through without a turn."""
    context = job(pico_run, tmp_path / "1")
    for name in ("sft_train", "rl_train"):
        prepare(store, context, name)
    shutil.rmtree(context.stage_dir("rl_train"))
    assert records.state(context, records.record(context, "rl_train")) == "run"
    assert store.takes(context, "rl_train")
    assert prepare(store, context, "rl_train") == "run"


def test_results_that_are_reused_come_along(store: Store, pico_run: Path, tmp_path: Path) -> None:
    """Would catch a longer list of targets that writes the finished ones again, or into the
    shared folder of the shorter list."""
    context = job(pico_run, tmp_path / "1")
    for name in ("sft_train", "rl_train"):
        prepare(store, context, name)
    for name in ("snapshot", "weight_extrap"):
        entry = store.folder / f"{name}-{context_of(pico_run).done_key(name)[:16]}"
        shutil.copytree(pico_run / name, entry)
        (tmp_path / "1" / name).symlink_to(entry)
    longer = context_of(tmp_path / "1", weight_extrap__targets=[5, 6, 8])
    entry, before = longer.stage_dir("weight_extrap"), files(longer.stage_dir("weight_extrap"))
    assert prepare(store, longer, "weight_extrap") == "stale"
    copy = longer.stage_dir("weight_extrap")
    assert copy != entry
    assert (copy / "two_point" / "step_6" / "model.safetensors").exists()
    assert files(entry) == before
    assert read_json(entry / "done.json")
