"""How several processes (torchrun, srun) divide one extrapolation: tensors by bytes, files shared.

They need no communication but the file system: they meet in the folder that they are going to fill,
each writes its tensors' byte ranges into the same shards and leaves a marker when done; the first
finishes the folder when all markers are there.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import write_text
from pipeline.errors import PipelineError

if TYPE_CHECKING:  # the runner asks for the environment before anything heavy is imported
    from pipeline.trajectory.entries import Entry

POLL = 0.05  # seconds between looks for the other processes' words
PATIENCE = 600.0  # seconds that processes of one start may come after each other
# Slurm numbers job steps from 0; the highest numbers mean the batch script or an interactive shell
PSEUDO_STEPS = 0xFFFFFFF0


@dataclass(frozen=True)
class Share:
    """This process is number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise PipelineError(f"rank {self.rank} of {self.world} processes: check the launcher")

    @staticmethod
    def from_environment() -> Share:
        """What torchrun (RANK, WORLD_SIZE) or srun (SLURM_PROCID, SLURM_NTASKS) say; else alone.

        A batch script itself also sees SLURM_NTASKS; only in a job step is SLURM_STEP_ID set.
        """
        given = os.environ
        if "RANK" in given and "WORLD_SIZE" in given:
            return Share(int(given["RANK"]), int(given["WORLD_SIZE"]))
        tasks = given.get("SLURM_STEP_NUM_TASKS", given.get("SLURM_NTASKS"))
        if tasks is not None and "SLURM_PROCID" in given and _in_step(given):
            return Share(int(given["SLURM_PROCID"]), int(tasks))
        return Share()

    def own(self, entries: Sequence[Entry]) -> list[Entry]:
        """This process's tensors, in order: the largest first, each to whoever has least bytes."""
        load = [0] * self.world
        mine = set()
        for entry in sorted(entries, key=lambda e: (-e.nbytes, e.name)):
            least = load.index(min(load))
            load[least] += entry.nbytes
            if least == self.rank:
                mine.add(entry.name)
        return [entry for entry in entries if entry.name in mine]


def _in_step(environment: Mapping[str, str]) -> bool:
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < PSEUDO_STEPS


def meet(folder: Path, share: Share) -> None:
    """Return when all processes of this start are at `folder`, and no earlier.

    An earlier start that was killed has left its words behind, so words alone prove nothing: each
    process lays down a random number, the first answers with the numbers it finds until every
    process has confirmed an answer to its own.

    Raises:
        PipelineError: one of them has not come within `PATIENCE` seconds.
    """
    if share.world == 1:
        return
    word = [folder / f".meet.{rank}" for rank in range(share.world)]
    number, deadline = uuid.uuid4().hex, time.monotonic() + PATIENCE
    if share.rank > 0:
        write_text(word[share.rank], number)
        while number not in (answer := _words(word[0])):
            _rest(folder, share, 0, deadline)
        write_text(word[share.rank], f"{number} {answer[0]}")
        return
    said: list[str] = []
    others = range(1, share.world)
    while True:
        heard = {rank: _words(word[rank]) for rank in others}
        absent = [rank for rank in others if heard[rank][1:] != [number]]
        if not absent:
            return
        answer = [number, *(words[0] for words in heard.values() if words)]
        if answer != said:
            write_text(word[0], " ".join(answer))
            said = answer
        _rest(folder, share, absent[0], deadline)


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def _rest(folder: Path, share: Share, absent: int, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise PipelineError(
            f"{folder}: process {share.rank} of {share.world} waited {PATIENCE:.0f} s for process "
            f"{absent}; did it fail? start all of them by one srun or torchrun"
        )
    time.sleep(POLL)


def wait_for(done: Callable[[], bool], folder: Path, share: Share) -> None:
    """Return when another process has done its part in `folder`.

    One that is killed outright leaves no word: its launcher must end the others (torchrun does,
    srun with --kill-on-bad-exit).

    Raises:
        PipelineError: one of them has failed.
    """
    while not done():
        for rank in range(share.world):
            if (folder / f".failed.{rank}").exists():
                raise PipelineError(
                    f"{folder}: gave up, since process {rank} of {share.world} failed; its own "
                    "message says why"
                )
        time.sleep(POLL)


@contextmanager
def telling(rooms: Iterable[Path], share: Share) -> Iterator[None]:
    """If this process fails inside, leave word for those that wait in the folders below `rooms`."""
    try:
        yield
    except BaseException:
        if share.world > 1:
            for partial in (partial for room in rooms for partial in room.glob(".*.partial")):
                write_text(partial / f".failed.{share.rank}", "")
        raise
