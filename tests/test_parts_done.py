"""A part of an evaluation that is finished already."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.artifacts import write_json
from pipeline.status.reader import Run, read
from tests.conftest import PICO, run_pipeline


def test_a_part_of_a_finished_run_leaves_it_finished(pico_run: Path, tmp_path: Path) -> None:
    """One task of a job array that is sent once more: the run was called stopped, although nothing
    is missing and no other part will ever come."""
    run_dir = Path(shutil.copytree(pico_run, tmp_path / "run"))
    place = [f"run.dir={run_dir}", f"run.cache={tmp_path / 'cache'}"]
    for stages in ("logit_extrap,evaluate", "evaluate"):
        done = run_pipeline(*PICO, *place, f"stages=[{stages}]", "run.part=0/2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "part 0 of 2: nothing is missing" in done.stdout
        [found] = read(run_dir)
        assert isinstance(found, Run)
        assert (found.state, found.parts) == ("done", {})
    (run_dir / "evaluate" / "done.json").unlink()  # now the rest is for the other part
    done = run_pipeline(*PICO, *place, "stages=[logit_extrap,evaluate]", "run.part=0/2")
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = read(run_dir)
    assert isinstance(found, Run)
    assert (found.state, found.parts) == ("stopped", {"done": 1, "to do": 1})
    write_json(run_dir / ".parts" / "1of2.json", {"state": "failed", "updated": 1.0})
    done = run_pipeline(*PICO, *place, "stages=[logit_extrap,evaluate]", "run.part=1/2")
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = read(run_dir)
    assert isinstance(found, Run)
    assert (found.state, found.parts) == ("done", {})
