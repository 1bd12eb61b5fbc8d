"""Metrics always go to metrics.jsonl; W&B gets group, tags, configuration and summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_jsonl
from pipeline.config import TrackingConfig
from pipeline.tracking import Tracker

PIXEL = (  # a PNG of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff"
    "3f0005fe02fe0def46b80000000049454e44ae426082"
)


def test_metrics_are_written_whatever_the_mode(tmp_path: Path) -> None:
    """Would catch metrics that are lost without W&B, or a torn row that stays."""
    (tmp_path / "metrics.jsonl").write_text('{"stage": "a"}\n{"stage": "torn')
    tracker = Tracker(tmp_path, "test", {}, TrackingConfig(mode="disabled"))
    tracker.log("rl_train", {"step": 1, "reward": 0.5})
    tracker.summary("rl_train", {"reward_last": 0.5})
    tracker.finish()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["stage"] for row in rows] == ["a", "rl_train", "rl_train"]
    assert rows[1]["reward"] == 0.5
    assert rows[2]["summary"] == {"reward_last": 0.5}
    assert not (tmp_path / "wandb").exists()


def test_one_run_directory_is_one_wandb_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a restart that becomes another run, or a lost group, tag or configuration."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    seen = []
    for _ in range(2):
        tracking = TrackingConfig(mode="offline", tags=["mine"], project="p")
        tracker = Tracker(tmp_path, "tiny", {"seed": 7}, tracking)
        tracker.log("evaluate", {"avg": 0.5})
        tracker.table("scores", ["model", "avg@k"], [["base", 0.5]])
        tracker.summary("evaluate", {"best": 0.6})
        run = tracker._run
        seen.append((run.id, run.group, tuple(run.tags), run.config["seed"], run.project))
        assert run.summary["evaluate/best"] == 0.6
        tracker.finish()
    assert seen[0] == seen[1]
    assert seen[0][1:] == ("tiny", ("tiny", "mine"), 7, "p")
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) >= 1


class Sink:
    """What stands where the W&B run does: it keeps what it was sent."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}

    def define_metric(self, name: str, step_metric: str) -> None:
        """As W&B's."""

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def started(run_dir: Path, sink: Sink | None) -> Tracker:
    """A tracker in a new process; what it sends goes to the sink, if there is one."""

    class Sinking(Tracker):
        def _wandb(self) -> Any:
            if sink is not None and self._run is None:
                self._id()
                self._run = sink
            return self._run

    return Sinking(run_dir, "tiny", {}, TrackingConfig(mode="disabled"))


def log(tracker: Tracker, *steps: int, of: str) -> None:
    for step in steps:
        tracker.log("rl_train", {"step": step, "run": of})
        tracker.log("rl_train", {"step": step, "run": of})  # as a follower may


def test_nothing_is_sent_twice_over_kills_and_restarts(tmp_path: Path) -> None:
    """Would catch the steps behind a checkpoint, sent by the killed run and again by the resumed
    one, also where that one is killed before it comes as far."""
    sink = Sink()
    log(started(tmp_path, sink), 1, 2, 3, 4, 5, of="first")
    log(started(tmp_path, sink), 3, of="second")
    log(started(tmp_path, sink), 3, 4, 5, 6, of="third")
    assert [row["rl_train/step"] for row in sink.rows] == [1, 2, 3, 4, 5, 6]
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["run"]) for row in rows] == [
        (1, "first"),
        (2, "first"),
        *((step, "third") for step in (3, 4, 5, 6)),
    ]


def test_what_was_never_sent_is_sent(tmp_path: Path) -> None:
    """Would catch a run whose first start had tracking off and whose W&B chart then has a hole."""
    sink = Sink()
    log(started(tmp_path, None), 1, 2, 3, of="off")
    log(started(tmp_path, sink), 3, 4, of="on")
    assert [row["rl_train/step"] for row in sink.rows] == [3, 4]


def test_a_stage_that_starts_anew_is_sent_anew(tmp_path: Path) -> None:
    """Would catch a run of other settings that W&B never sees."""
    sink = Sink()
    log(started(tmp_path, sink), 1, 2, of="old")
    tracker = started(tmp_path, sink)
    tracker.begin("rl_train")
    log(tracker, 1, 2, 3, of="new")
    assert [row["rl_train/step"] for row in sink.rows] == [1, 2, 1, 2, 3]
    assert [row["run"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == ["new"] * 3


def test_tables_figures_and_summaries_are_sent_when_they_change(tmp_path: Path) -> None:
    """Would catch an evaluation that is run again and gives W&B a second table of the same."""
    sink, figure = Sink(), tmp_path / "figure.png"
    figure.write_bytes(bytes.fromhex(PIXEL))
    for score in (0.5, 0.5, 0.6):
        tracker = started(tmp_path, sink)
        tracker.table("scores", ["model", "avg@k"], [["base", score]])
        tracker.images([figure])
        tracker.summary("evaluate", {"avg": score})
    assert [next(iter(row)) for row in sink.rows] == ["scores", "figures/figure", "scores"]
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert row["summary"] == {"avg": 0.6} == {"avg": sink.summary["evaluate/avg"]}


def test_charts_and_artifacts_are_in_the_file_of_an_offline_run(tmp_path: Path) -> None:
    """Would catch a chart that is not drawn over its own x, one logged again by a restart, weights
    copied into the artifact, or a file that the later upload cannot read."""
    from tests.wandb_file import history, records, run_file

    weights = tmp_path / "snapshots" / "step_3"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"w" * 100_000)
    (tmp_path / "trajectory.json").write_text("{}")
    lines = {"rl": [(1.0, 0.1), (3.0, 0.3)], "rank1": [(3.0, 0.25), (9.0, 0.4)]}
    for _ in range(2):
        tracker = Tracker(tmp_path, "tiny", {"seed": 7}, TrackingConfig(mode="offline"))
        tracker.chart("horizon/math/test", "step", lines)
        tracker.artifact("trajectory", [tmp_path / "trajectory.json"], {"step_3": weights})
        tracker.summary("evaluate", {"validation/weight": 0.4})
        tracker.finish()
    starts = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    rows = [row for start in starts for row in history(start)]
    name = "horizon/math/test"
    assert rows == [
        {f"{name}/step": 1.0, f"{name}/rl": 0.1},
        {f"{name}/step": 3.0, f"{name}/rl": 0.3, f"{name}/rank1": 0.25},
        {f"{name}/step": 9.0, f"{name}/rank1": 0.4},
    ]
    found = list(records(starts[0]))
    metrics = [r.metric for r in found if r.WhichOneof("record_type") == "metric"]
    assert any(m.step_metric == f"{name}/step" for m in metrics) or any(
        m.glob_name == f"{name}/*" for m in metrics
    )
    requests = [r for r in found if r.WhichOneof("record_type") == "artifact"]
    assert len(requests) == 1
    assert weights.as_uri() in str(requests[0].artifact.manifest)
    assert run_file(tmp_path).exists()
    copies = [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size >= 100_000]
    assert copies == [weights / "model.safetensors"]


def test_a_wandb_agent_gives_the_run_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a sweep whose agent waits for a run that reports under another id."""
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    tracker = Tracker(tmp_path, "tiny", {}, TrackingConfig(mode="offline"))
    tracker.summary("evaluate", {"validation/weight": 0.4})
    assert tracker._run.id == "given123"
    tracker.finish()
    monkeypatch.delenv("WANDB_RUN_ID")
    assert started(tmp_path, Sink())._id() == "given123"
