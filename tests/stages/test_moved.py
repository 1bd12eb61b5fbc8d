"""A finished run at another place than the one where it was made."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.artifacts import read_json, write_text
from pipeline.evaluation.candidates import weight_candidates
from pipeline.inference.open import open_engine
from pipeline.stages import weight_extrap
from pipeline.trajectory.recipe import Recipe
from tests.conftest import PICO, run_pipeline
from tests.stages.contexts import context_of


def moved(run: Path, place: Path) -> Path:
    """A copy of a run whose records name folders that are no more."""
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("checkpoints"))
    for path in (*place.glob("snapshot/*.json"), *place.glob("weight_extrap/*/*/extra*.json")):
        write_text(path, path.read_text().replace(f"{run}/", "/gone/run/"))
    return place


def test_a_moved_run_finds_its_checkpoints(
    pico_run: Path, pico_cache: Path, tmp_path: Path
) -> None:
    """Would catch a run that is of no use on another machine, or that reads the folder it was
    copied from, which may have changed."""
    place = moved(pico_run, tmp_path / "a b=c")
    trajectory = context_of(place).trajectory
    assert trajectory.steps == context_of(pico_run).trajectory.steps
    files = [file for c in trajectory.checkpoints.values() for file in c.files]
    assert all(file.path.is_relative_to(place) and file.sha256 for file in files)
    where = [f'run.dir="{place}"', f"run.cache={pico_cache}"]
    done = run_pipeline(*PICO, *where, "evaluate.bootstrap=300")
    assert done.returncode == 0, done.stderr
    assert "[weight_extrap] done already" in done.stdout  # nothing that holds is made again
    assert "from 0 to 4, generations 0" in done.stdout
    before, after = (
        [(row["model"], row["avg@k"]) for row in read_json(run / "evaluate/scores.json")["rows"]]
        for run in (pico_run, place)
    )
    assert after == before


def test_a_moved_recipe_is_built_from_the_moved_checkpoints(pico_run: Path, tmp_path: Path) -> None:
    """Would catch predictions that were not written and can no more be built."""
    copy = tmp_path / "copy"  # and moved again after it was made there
    shutil.copytree(pico_run, copy, ignore=shutil.ignore_patterns("checkpoints", "weight_extrap"))
    weight_extrap.run(context_of(copy, weight_extrap__write=False))
    place = moved(copy, tmp_path / "place")
    shutil.rmtree(copy)
    [candidate, *_] = weight_candidates(context_of(place))
    assert isinstance(candidate.source, Recipe)
    engine = open_engine("hf", candidate.source.model)
    engine.load_weights(candidate.source)
