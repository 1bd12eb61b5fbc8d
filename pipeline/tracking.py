"""Metrics: always to metrics.jsonl, and to W&B online, offline or not at all.

The only file that imports wandb, and it does so at the first use. Offline means offline: nothing
tries the network; `wandb sync` uploads the run later. One run directory is one W&B run: after a
restart the same id resumes.

W&B's history cannot be taken back, so what was sent stays: steps that a killed run has sent are
not sent again when the resumed one trains them (metrics.jsonl then has the values of the resumed
run), nor is a table or a figure that has not changed. wandb_sent.json keeps what W&B has.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, hash_json, read_json, write_json, write_text
from pipeline.config import TrackingConfig
from pipeline.errors import PipelineError
from pipeline.metrics_file import MetricsFile


class Tracker:
    """Writes what is measured while a run is at work.

    Args:
        run_dir: metrics.jsonl and the W&B files go here.
        name: the experiment; the W&B group unless `tracking.group` is set.
        config: the resolved configuration, stored with the W&B run.
        tracking: mode, project, entity, group and tags.
        on_step: told of every row that has a step, as (stage, step).
    """

    def __init__(
        self,
        run_dir: Path,
        name: str,
        config: Mapping[str, Any],
        tracking: TrackingConfig,
        on_step: Callable[[str, int], None] | None = None,
    ) -> None:
        self._on_step = on_step
        self._file = MetricsFile(run_dir / "metrics.jsonl")
        self._run_dir, self._name, self._config, self._tracking = run_dir, name, config, tracking
        self._run: Any = None

    def begin(self, stage: str) -> None:
        """A stage starts anew: its rows in metrics.jsonl, of a run that is set aside, go."""
        self._file.forget(stage)
        self._keep_sent(stage, -1)

    def log(self, stage: str, values: Mapping[str, Any]) -> None:
        """One row of measurements of `stage`; a key `step` is the x-axis in W&B.

        A step that is logged again replaces the row in metrics.jsonl; W&B keeps the first.
        """
        step, sent = values.get("step"), self._sent_step(stage)
        if step is not None and self._on_step is not None:
            self._on_step(stage, int(step))
        if step is not None and step <= self._file.last_step(stage):
            self._keep_sent(stage, sent)  # the file is about to forget these steps
        if not self._file.add(stage, values) or (step is not None and step <= sent):
            return
        run = self._wandb()
        if run is not None:
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            run.log({f"{stage}/{key}": value for key, value in numbers.items()})

    def summary(self, stage: str, values: Mapping[str, Any]) -> None:
        """Final figures of a stage: its one row in metrics.jsonl, and W&B's summary."""
        new = self._file.summarise(stage, values)
        run = self._wandb() if new else self._run  # no run is opened to say it again
        if run is not None:
            run.summary.update({f"{stage}/{key}": value for key, value in values.items()})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table in W&B (its data is an artefact of the run directory already)."""
        run = self._wandb()
        if run is not None and self._new(name, hash_json([columns, rows])):
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def chart(self, name: str, x: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Lines of (x, y) points in W&B, below `name`; the runs of a sweep share the chart."""
        run = self._wandb()
        if run is None or not self._new(f"chart {name}", hash_json([x, lines])):
            return
        run.define_metric(f"{name}/*", step_metric=f"{name}/{x}")
        for place in sorted({point[0] for points in lines.values() for point in points}):
            values = {
                f"{name}/{line}": y
                for line, points in lines.items()
                for at, y in points
                if at == place
            }
            run.log({f"{name}/{x}": place, **values})

    def artifact(self, kind: str, files: Sequence[Path], folders: Mapping[str, Path]) -> None:
        """An artifact of this run in W&B: small files as they are, folders by reference only."""
        run = self._wandb()
        if run is None:
            return
        places = {name: path.absolute().as_uri() for name, path in folders.items()}
        if self._new(f"artifact {kind}", hash_json([*map(hash_file, files), places])):
            import wandb

            artifact = wandb.Artifact(f"{kind}-{self._id()}", kind)
            for file in files:
                artifact.add_file(str(file))
            for name, uri in places.items():
                artifact.add_reference(uri, name=name, checksum=False)
            run.log_artifact(artifact)

    def images(self, paths: Sequence[Path]) -> None:
        """Figures in W&B, named by file."""
        run = self._wandb()
        new = [] if run is None else [p for p in paths if self._new(p.name, hash_file(p))]
        if new:
            import wandb

            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in new})

    def finish(self) -> None:
        """Flush and close the W&B run, if one was opened."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _sent_step(self, stage: str) -> int:
        """The highest step of `stage` that W&B has; -1 if none."""
        if not (self._run_dir / "wandb_id.txt").exists():
            return -1
        return max(self._file.last_step(stage), int(self._sent().get(stage, -1)))

    def _new(self, name: str, content: str) -> bool:
        """Whether W&B lacks this content; it is then taken as sent."""
        if self._sent().get(name) == content:
            return False
        self._keep_sent(name, content)
        return True

    def _sent(self) -> dict[str, Any]:
        path = self._run_dir / "wandb_sent.json"
        return dict(read_json(path)) if path.exists() else {}

    def _keep_sent(self, name: str, value: int | str) -> None:
        sent = self._sent()
        if (self._run_dir / "wandb_id.txt").exists() and sent.get(name) != value:
            write_json(self._run_dir / "wandb_sent.json", sent | {name: value})

    def _wandb(self) -> Any:
        """The W&B run, opened at the first use; None if tracking.mode is disabled."""
        mode = self._tracking.mode
        if mode == "disabled" or self._run is not None:
            return self._run
        os.environ.setdefault("WANDB_SILENT", "true")
        if mode == "offline":
            # W&B's own error telemetry would look up its server even then (wandb 0.31).
            os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        try:
            self._run = wandb.init(
                project=self._tracking.project,
                entity=self._tracking.entity,
                group=self._tracking.group or self._name,
                tags=[self._name, *self._tracking.tags],
                name=f"{self._name}/{self._run_dir.name}",
                id=self._id(),
                resume="allow" if mode == "online" else None,
                dir=str(self._run_dir),
                mode="online" if mode == "online" else "offline",
                config=dict(self._config),
                settings=wandb.Settings(console="off", silent=True, disable_git=True),
            )
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            reason = " ".join(str(error).split())
            raise PipelineError(
                f"tracking.mode=online: W&B did not answer ({reason}); "
                "log in with `wandb login`, or use tracking.mode=offline"
            ) from error
        return self._run

    def _id(self) -> str:
        """One id for the life of the run directory; `wandb agent` gives its own."""
        path = self._run_dir / "wandb_id.txt"
        if given := os.environ.get("WANDB_RUN_ID"):
            write_text(path, f"{given}\n")
        elif not path.exists():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        return path.read_text().strip()
