"""What a run works on, found once a run and passed whole: stages and the evaluation read it here.

Nothing is looked for before it is asked for: while a run is planned, its checkpoints may not exist
yet, and its models may be on the hub.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import hash_json, read_own
from pipeline.config import PipelineConfig
from pipeline.content import Hashes
from pipeline.subject import base_model, checkpoints, problem_sets
from pipeline.tasks.task import TaskConfig
from pipeline.trajectory.segments import check_straight

if TYPE_CHECKING:
    from pipeline.inference.options import EngineOptions
    from pipeline.subject.methods import Method
    from pipeline.subject.problem_sets import ProblemSet
    from pipeline.trajectory.sources import Trajectory


@dataclass(frozen=True)
class Subject:
    """The configuration, the run directory, and what these two lead to."""

    config: PipelineConfig
    run_dir: Path

    def stage_dir(self, stage: str) -> Path:
        """Where a stage's artefacts are; of one that is shared with other runs, not the link: paths
        that are noted must hold when this run directory is gone."""
        folder = self.run_dir / stage
        return folder.resolve() if folder.is_symlink() else folder

    def is_done(self, stage: str) -> bool:
        return (self.stage_dir(stage) / "done.json").exists()

    def runs_or_done(self, stage: str) -> bool:
        return stage in self.config.stages or self.is_done(stage)

    @cached_property
    def hashes(self) -> Hashes:
        """SHA-256 of files outside the run directory."""
        return Hashes(self.run_dir / "hashes.json", keep=not self.config.dry_run)

    def base_model(self) -> Path:
        """The folder of the model that training starts from; see `base_model.base_model`."""
        cache, made = Path(self.config.run.cache), self.stage_dir("sft_train")
        return base_model.base_model(self.config.model, cache, made)

    @cached_property
    def own_steps(self) -> list[int] | None:
        """The steps of our own run that are asked for, of which rl_train may have more; where it
        does not belong to the stages, those that it has. None if there are none yet."""
        rl = self.config.rl_train
        if "rl_train" in self.config.stages:
            return [*range(rl.snapshot_every, rl.steps + 1, rl.snapshot_every)]
        if not self.is_done("rl_train"):
            return None
        from pipeline.trajectory.steps import find_steps

        return sorted(find_steps(self.snapshots))

    @property
    def snapshots(self) -> Path:
        """Where rl_train writes its snapshots."""
        return self.stage_dir("rl_train") / "snapshots"

    @cached_property
    def given(self) -> Trajectory | None:
        """The checkpoints of `snapshot.source` or `snapshot.checkpoints`, which are there before
        the run; None where they are our own, or are still to be fetched from the hub."""
        snapshot = self.config.snapshot
        if not checkpoints.are_given(snapshot) or checkpoints.hub_names(snapshot):
            return None
        return checkpoints.discover(snapshot)

    @cached_property
    def planned(self) -> Trajectory | None:
        """`given`, where this run is to record it."""
        return self.given if "snapshot" in self.config.stages else None

    @cached_property
    def steps(self) -> list[int] | None:
        """The steps of the trajectory, before there is one; None where only the hub knows them."""
        if "snapshot" not in self.config.stages:
            return [int(step) for step in read_own(self.recorded)["steps"]]
        if checkpoints.are_given(self.config.snapshot):
            return None if self.given is None else self.given.steps
        return None if self.own_steps is None else [0, *self.own_steps]

    @property
    def recorded(self) -> Path:
        """The file that the snapshot stage writes, all that later stages read of checkpoints."""
        return self.stage_dir("snapshot") / "trajectory.json"

    @property
    def exported(self) -> Path:
        """Where checkpoints are written as plain model folders."""
        return self.stage_dir("snapshot") / "exported"

    @cached_property
    def trajectory(self) -> Trajectory:
        """What the snapshot stage recorded; for stages that run after it."""
        from pipeline.trajectory.sources import Trajectory

        recorded = read_own(self.recorded)
        moves = self._moves(recorded)
        return Trajectory.from_json(_placed(recorded, moves) if moves else recorded)

    def _moves(self, recorded: Mapping[str, Any]) -> list[tuple[Path, Path]]:
        """Folders of our own checkpoints and base as they were recorded, and as they are."""
        config = self.config
        if checkpoints.are_given(config.snapshot) or not self.snapshots.is_dir():
            return []
        moves = [(Path(recorded["checkpoints"][-1]["path"]).parent, self.snapshots)]
        if base_model.made_here(config.model):
            moves.append((Path(recorded["given_base"]), self.base_model()))
        return [(old, new) for old, new in moves if old != new and new.is_dir()]

    def ends(self, steps: list[int]) -> tuple[int, int]:
        """(first, last) of the extrapolation, checked against the steps there are."""
        extrapolation = self.config.extrapolation
        last = extrapolation.last if extrapolation.last is not None else max(steps)
        checkpoints.check_step("extrapolation.first", extrapolation.first, steps)
        checkpoints.check_step("extrapolation.last", last, steps)
        check_straight(extrapolation.first, last, self._virtual(steps))
        return extrapolation.first, last

    def _virtual(self, steps: list[int]) -> dict[int, float]:
        """Of a run with jumps: as recorded, or as they will be where none is refused."""
        reground = self.config.rl_train.reground
        if "snapshot" not in self.config.stages or self.recorded.exists():
            recorded = read_own(self.recorded)
            return dict(zip(recorded["steps"], recorded.get("virtual_steps", []), strict=False))
        if self.given is not None:
            return self.given.virtual
        if reground.every is None:
            return {}
        return {s: s + reground.jump * (max(s - 1, 0) // reground.every) for s in steps}

    @cached_property
    def methods(self) -> dict[str, Method]:
        """See `methods.configured`."""
        from pipeline.subject.methods import configured

        return configured(self.config)

    @cached_property
    def engine(self) -> EngineOptions:
        """The engine that samples and scores."""
        from pipeline.inference.options import EngineOptions

        return EngineOptions(self.config.engine, self.config.model.dtype, self.config.seed)

    def engine_on(self, *models: Path) -> dict[str, Any]:
        """The engine on a model or on those of a mixture, for `parallel.start`; it decodes with the
        base's tokenizer and stops at `end_tokens`, whichever models these are."""
        common = {"tokenizer": str(self.trajectory.base.folder), "ends": self.end_tokens}
        return self.engine.arguments(*models) | common

    @cached_property
    def end_tokens(self) -> list[int]:
        """See `conversation.end_tokens`."""
        from pipeline.trajectory.conversation import end_tokens

        return end_tokens(self.trajectory)

    def warn_of_ends(self, key: str, ends: Iterable[int]) -> None:
        """Say so where a model from elsewhere ends at tokens at which this run's models do not.

        Args:
            key: of the configuration, that names the model.
            ends: all that it names as an end.
        """
        if more := sorted({*ends} - {*self.end_tokens}):
            logging.getLogger(__name__).warning(
                "%s: ends its responses at tokens %s too, at which no model of this run stops (%s "
                "for all): its responses may run on, and look worse than they are; name the "
                "tokens in the generation_config.json of the base to have all stop there",
                *(key, ", ".join(map(str, more)), ", ".join(map(str, self.end_tokens)) or "none"),
            )

    @cached_property
    def sets(self) -> list[ProblemSet]:
        """What is evaluated; see `problem_sets.evaluation_sets`."""
        return problem_sets.evaluation_sets(self.config)

    def check_task(self, task: TaskConfig, *sets: tuple[str, int | None]) -> None:
        """Find what can be found wrong with a task before anything starts.

        Unless this is a dry run, small data sets are fetched from the hub for that.

        Args:
            sets: (split, how many problems) that will be wanted.

        Raises:
            PipelineError: an unknown kind or option, a package that is not there, a data file that
                is missing or broken, has other columns or too few problems; a hub that does not
                answer.
        """
        from pipeline import tasks

        tasks.check_task(task)
        seed, fetch = self.config.seed, not self.config.dry_run
        for split, count in sets:
            key = hash_json([asdict(task), split, count, seed, fetch])
            if key not in self._tried:
                tasks.try_load(task, split, count, seed, fetch=fetch)
                self._tried.add(key)

    @cached_property
    def _tried(self) -> set[str]:
        """What `check_task` has loaded: several stages ask for the same problems."""
        return set()


def _placed(record: Any, moves: Sequence[tuple[Path, Path]]) -> Any:
    """What a stage noted, with the paths of our own checkpoints as they are now: a finished run may
    have been moved, or be the copy of one that changed since."""
    if isinstance(record, dict):
        return {key: _placed(value, moves) for key, value in record.items()}
    if isinstance(record, list):
        return [_placed(value, moves) for value in record]
    if isinstance(record, str):
        for old, new in moves:
            if Path(record).is_relative_to(old):
                return str(new / Path(record).relative_to(old))
    return record
