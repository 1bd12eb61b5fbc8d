"""Re-grounding inside a run: after every M real steps a jump of N more along the segment's line.

    θ ← θ_seg + β (θ - θ_seg),   β = (M + N) / M

θ_seg is where the segment began: the end of the last jump. The published script (arXiv 2601.04537,
RL-Extra) starts a new process from saved weights for each segment; here every rank moves the fp32
master weights that it owns, between two steps. Nothing is gathered, data order and rollouts are
kept, and the optimiser's moments are kept (or reset, as published).

The jump is exact: in fp32, product before sum, so that it equals the same formula on the gathered
weights to the bit, for any number of ranks and any ZeRO stage. θ_seg lies in host memory and in
every checkpoint, so a run that was killed resumes inside its segment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.artifacts import append_jsonl, read_own, write_json
from pipeline.training.agreement import summed
from pipeline.training.masters import forget, owned, replace_owned
from pipeline.training.schema import RegroundConfig
from pipeline.trajectory.segments import JUMPS

CHUNK = 1 << 18  # weights that are summed at once: their fp64 copies stay in a core's cache
Parts = dict[str, torch.Tensor]  # this rank's, [n] fp32 in host memory, by parameter name


@dataclass
class Segment:
    """Where the current segment began; steps are real ones, `virtual` counts the jumps' as well."""

    step: int = 0
    virtual: float = 0.0


@dataclass(frozen=True)
class Line:
    """What a segment's movement looks like, over all ranks and the tensors that jump.

    straightness: cosine of the movements of its two halves; None for a segment of one step.
    movement: ‖θ - θ_seg‖ / ‖θ_seg‖.
    """

    straightness: float | None
    movement: float


class RegroundCallback(TrainerCallback):
    """Makes the jumps, after the snapshot of the same step and before its checkpoint.

    Args:
        folder: of the run; a row a jump is appended to its regrounds.jsonl.
        updates: optimiser updates a step.
        accuracy: of the model as it is now, with the same random numbers for one seed; a
            collective. None: no guard.
    """

    def __init__(
        self,
        config: RegroundConfig,
        folder: Path,
        updates: int,
        accuracy: Callable[[int], float] | None,
    ) -> None:
        assert config.every is not None
        self.config = config
        self.every = config.every
        self.folder = folder
        self.updates = updates
        self.accuracy = accuracy
        self.segment = Segment()
        self.start: Parts = {}
        self.middle: Parts = {}
        self.velocity: Parts = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            checkpoint = self.folder / "checkpoints" / f"checkpoint-{state.global_step}"
            self._load(checkpoint, args.process_index)
        else:
            self.start = _copy(kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step, rest = divmod(state.global_step, self.updates)
        if rest:
            return
        done = step - self.segment.step
        if done == self.every // 2 and self.every > 1:
            self.middle = _copy(kwargs["model"])
        if done == self.every:
            row = self._jump(kwargs["model"], kwargs["optimizer"], step)
            if state.is_world_process_zero:
                append_jsonl(self.folder / JUMPS, [row])

    def save(self, checkpoint: Path, rank: int) -> None:
        """Put what a segment needs beside a checkpoint's files; every rank its own part."""
        kinds = {"start": self.start, "middle": self.middle, "velocity": self.velocity}
        named = {f"{kind}/{name}": part for kind in kinds for name, part in kinds[kind].items()}
        save_file(named, checkpoint / f"reground-{rank}.safetensors")
        if rank == 0:
            write_json(checkpoint / "reground.json", asdict(self.segment))

    def _load(self, checkpoint: Path, rank: int) -> None:
        self.segment = Segment(**read_own(checkpoint / "reground.json"))
        kinds: dict[str, Parts] = {"start": {}, "middle": {}, "velocity": {}}
        for key, part in load_file(checkpoint / f"reground-{rank}.safetensors").items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = part
        self.start, self.middle, self.velocity = kinds["start"], kinds["middle"], kinds["velocity"]

    def _jump(self, model: torch.nn.Module, optimizer: Any, step: int) -> dict[str, Any]:
        """One jump, or none where the guard refuses all tries; returns its row."""
        began, config = time.monotonic(), self.config
        real = _copy(model)
        moving = [n for n in real if not any(fnmatchcase(n, glob) for glob in config.hold)]
        line = measure(self.start, self.middle, real, moving)
        directions, velocity = self._directions(real, moving)
        before = after = None
        if self.accuracy is not None:
            before = self.accuracy(step)
        beta = chosen = self._beta(line)
        tries = 0
        while beta > 1.0:
            tries += 1
            chosen = beta
            replace_owned(model, optimizer, jumped(self.start, directions, beta))
            if self.accuracy is None or before is None:
                break
            after = self.accuracy(step)
            if after >= before - config.guard.threshold:
                break
            beta = 1.0 if tries == config.guard.tries else 1.0 + (beta - 1.0) / 2.0
        accepted = beta > 1.0
        if not accepted and tries:
            replace_owned(model, optimizer, real)
        if accepted and config.optimizer == "reset":
            forget(optimizer)
        if accepted:
            self.velocity = velocity
        virtual = self.segment.virtual + self.every * (beta if accepted else 1.0)
        self.segment = Segment(step, virtual)
        self.start, self.middle = _copy(model), {}
        return {
            "step": step,
            "virtual_step": virtual,
            "beta": beta if accepted else 1.0,
            "refused_beta": None if accepted or not tries else chosen,
            "accepted": accepted,
            "tries": tries,
            "straightness": line.straightness,
            "movement": line.movement,
            "guard_before": before,
            "guard_after": after,
            "seconds": time.monotonic() - began,
        }

    def _beta(self, line: Line) -> float:
        """β of a segment: that of M and N, less where it was crooked or would go too far."""
        ahead = self.config.jump / self.every
        if self.config.adaptive and line.straightness is not None:
            ahead *= max(0.0, line.straightness)
        cap = self.config.max_movement
        if cap is not None and ahead * line.movement > cap:
            ahead = cap / line.movement
        return 1.0 + ahead

    def _directions(self, real: Parts, moving: list[str]) -> tuple[Parts, Parts]:
        """(directions, velocity) of the tensors that jump: δ = θ - θ_seg, with momentum δ + μ v
        (Nesterov) where v ← μ v + δ; without, there is no velocity to keep.
        """
        mu = self.config.momentum
        directions = {name: real[name] - self.start[name] for name in moving}
        if not mu:
            return directions, {}
        velocity = {
            name: mu * self.velocity.get(name, torch.zeros_like(delta)) + delta
            for name, delta in directions.items()
        }
        return {n: delta + mu * velocity[n] for n, delta in directions.items()}, velocity


def jumped(start: Mapping[str, torch.Tensor], directions: Parts, beta: float) -> Parts:
    """θ_seg + β d, in fp32: the product is rounded, then the sum."""
    return {name: start[name] + directions[name] * beta for name in directions}


def measure(start: Parts, middle: Parts, end: Parts, names: list[str]) -> Line:
    """Straightness and relative movement of a segment over all ranks (a collective).

    Sums of squares are taken in fp64. Where ranks hold the same weights (no ZeRO) all sums grow by
    the same factor, which no ratio shows.
    """
    sums = torch.zeros(5, dtype=torch.float64)
    for name in names:
        kinds = [part[name].split(CHUNK) for part in (start, end, middle) if part]
        for before, after, *between in zip(*kinds, strict=True):
            base, whole = before.double(), (after - before).double()
            sums[:2] += torch.stack([base @ base, whole @ whole])
            if between:
                first, second = (between[0] - before).double(), (after - between[0]).double()
                sums[2:] += torch.stack([first @ second, first @ first, second @ second])
    sums = summed(sums)
    length = math.sqrt(float(sums[3] * sums[4]))
    straightness = float(sums[2]) / length if length > 0 else None
    base = math.sqrt(float(sums[0]))
    return Line(straightness, math.sqrt(float(sums[1])) / base if base > 0 else 0.0)


def _copy(model: torch.nn.Module) -> Parts:
    return {name: part.to("cpu", copy=True) for name, part in owned(model)}
