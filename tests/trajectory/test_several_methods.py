"""Several methods from one read against each alone: would catch a coefficient in another method's
row, a rule of one that reaches another, and a checkpoint that is read once for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory import plan, stream, writer
from pipeline.trajectory.combine import write, write_all
from pipeline.trajectory.plan import Plan, make_plan
from pipeline.trajectory.reader import Reader, Values
from pipeline.trajectory.recipe import recipes, write_recipes
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.share import Share
from pipeline.trajectory.sources import Trajectory, discover
from pipeline.trajectory.stream import Piece
from tests.trajectory.pico import run_tensors, write_run

TARGETS = [90, 200]
NORM = ["*norm*"]
METHODS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "two_point": ("two_point", {}, NORM),
    "damped": ("two_point", {"damping": 0.5, "alpha_by_tensor": {"*mlp*": 2.0}}, NORM),
    "least_squares": ("least_squares", {}, NORM),
    "mean": ("mean", {"count": 2}, []),
    "last": ("last", {}, []),
    "rank1": ("rank1", {"rank": 2}, NORM),
    "gated": ("gated", {"by": "scalar"}, NORM),
}
SUMS = ["two_point", "damped", "least_squares", "mean", "last"]


@pytest.fixture
def trajectory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trajectory:
    """fp32, so that held tensors keep another dtype than outputs have, and shards are cut elsewhere
    where nothing is held; step 100 must not be used."""
    monkeypatch.setattr(stream, "PIECE", 29)
    monkeypatch.setattr(plan, "plan_shards", lambda t: writer.plan_shards(t, limit=1000))
    run = write_run(tmp_path / "run", run_tensors([0, 20, 50, 60, 100]), torch.float32)
    return discover(run, None)


def plan_of(trajectory: Trajectory, name: str) -> Plan:
    method, options, hold = METHODS[name]
    return make_plan(trajectory, make_rule(method, options), 0, 60, TARGETS, hold)


def folders(root: Path, name: str) -> dict[int, Path]:
    return {target: root / name / f"step_{target}" for target in TARGETS}


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """Every piece that is read of the checkpoints."""
    found: list[Piece] = []
    real = Reader.read

    def read(self: Reader, piece: Piece, places: Sequence[int] | None = None) -> Values:
        found.append(piece)
        return real(self, piece, places)

    monkeypatch.setattr(Reader, "read", read)
    return found


@pytest.mark.parametrize("names", [SUMS, list(METHODS), ["rank1", "two_point"]])
def test_bytes_are_those_of_each_method_alone(
    trajectory: Trajectory, tmp_path: Path, names: list[str]
) -> None:
    jobs = [(plan_of(trajectory, name), folders(tmp_path / "several", name)) for name in names]
    records = write_all(jobs)
    for name, (single, _), mine in zip(names, jobs, records, strict=True):
        assert write(single, folders(tmp_path / "alone", name)) == mine
    assert content(tmp_path / "several") == content(tmp_path / "alone")


@pytest.mark.parametrize(
    ("names", "widest"), [(SUMS, "least_squares"), (["two_point", "damped", "rank1"], "rank1")]
)
def test_all_methods_share_a_read(
    trajectory: Trajectory, tmp_path: Path, reads: list[Piece], names: list[str], widest: str
) -> None:
    """As many pieces are read as by the one method that uses all checkpoints, of all tensors that
    one of them moves."""
    method, options, _ = METHODS[widest]
    hold = NORM if all(METHODS[name][2] for name in names) else []
    alone_plan = make_plan(trajectory, make_rule(method, options), 0, 60, TARGETS, hold)
    write(alone_plan, folders(tmp_path / "alone", widest))
    alone = len(reads)
    reads.clear()
    write_all([(plan_of(trajectory, name), folders(tmp_path / "all", name)) for name in names])
    assert len(reads) == alone
    reads.clear()
    recipes([plan_of(trajectory, name) for name in (*SUMS, "rank1")])
    together = len(reads)
    reads.clear()
    recipes([plan_of(trajectory, "rank1")])
    assert len(reads) == together > 0
    reads.clear()
    recipes([plan_of(trajectory, name) for name in SUMS])
    assert reads == []


def test_a_finished_method_is_left_as_it_is(trajectory: Trajectory, tmp_path: Path) -> None:
    """A method that is added, or killed half-way, costs the others nothing."""
    root, names = tmp_path / "several", ["two_point", "rank1", "mean"]
    write(plan_of(trajectory, "rank1"), folders(root, "rank1"))
    inode = (root / "rank1/step_90/config.json").stat().st_ino
    (root / "mean/step_90").mkdir(parents=True)
    records = write_all([(plan_of(trajectory, name), folders(root, name)) for name in names])
    assert (root / "rank1/step_90/config.json").stat().st_ino == inode
    assert [set(record) for record in records] == [set(TARGETS)] * 3
    for name in names:
        write(plan_of(trajectory, name), folders(tmp_path / "alone", name))
    assert content(root) == content(tmp_path / "alone")


def test_a_recipe_is_no_written_folder(trajectory: Trajectory, tmp_path: Path) -> None:
    """Models that are said to be there since their recipes are, and the other way round."""
    jobs = [(plan_of(trajectory, n), folders(tmp_path / "several", n)) for n in ("mean", "rank1")]
    assert [set(record) for record in write_recipes(jobs)] == [set(TARGETS)] * 2
    assert len(content(tmp_path / "several")) == 4
    write_all(jobs)
    written = content(tmp_path / "several")
    assert sum(name.endswith("config.json") for name in written) >= 4
    write_recipes(jobs)
    assert content(tmp_path / "several") == written


def test_two_ranks_share_several_methods(trajectory: Trajectory, tmp_path: Path) -> None:
    """Ranks that divide the tensors of two methods otherwise, since their shards differ."""
    from concurrent.futures import ThreadPoolExecutor

    names = ["two_point", "mean", "rank1"]

    def rank(number: int) -> list[Mapping[int, Any]]:
        jobs = [(plan_of(trajectory, name), folders(tmp_path / "several", name)) for name in names]
        return list(write_all(jobs, Share(number, 2)))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(rank, range(2))
    assert first == second
    for name in names:
        write(plan_of(trajectory, name), folders(tmp_path / "alone", name))
    assert content(tmp_path / "several") == content(tmp_path / "alone")


def test_a_result_that_overflows_names_its_method(tmp_path: Path) -> None:
    run = run_tensors([0, 60])
    run[60] = {name: value + 3e4 for name, value in run[60].items()}
    trajectory = discover(write_run(tmp_path / "run", run, torch.float32), None)
    plans = [
        make_plan(trajectory, make_rule(name), 0, 60, [90, 600], [], "float16")
        for name in ("mean", "two_point")
    ]
    jobs = [(p, {t: tmp_path / p.rule.name / str(t) for t in (90, 600)}) for p in plans]
    with pytest.raises(PipelineError, match="step 600 of two_point overflows float16"):
        write_all(jobs)


def test_plans_between_other_checkpoints_are_refused(
    trajectory: Trajectory, tmp_path: Path
) -> None:
    other = make_plan(trajectory, make_rule("two_point"), 20, 60, TARGETS)
    jobs = [(plan_of(trajectory, "rank1"), folders(tmp_path, "a")), (other, folders(tmp_path, "b"))]
    with pytest.raises(ValueError, match="cannot share a read"):
        write_all(jobs)
