"""Which step the name of a checkpoint says.

Trainers write `global_step_40` (verl), `global_step40` (DeepSpeed, OpenRLHF), `checkpoint-40`
(transformers, TRL), `step_40` (ours, prime-rl), `step-40` (torchtitan), `iter_0000040` (Megatron
and its kin), `epoch=1-step=40` (Lightning), and people put the name of the run before it. An epoch
is no step: how long one is nobody here knows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.quoting import assignment

KNOWN = "global_step_N, checkpoint-N, ckpt_N, step_N, iter_N, update_N, policy_N"
_WORDS = r"global[-_]?steps?|check[-_]?point|ckpt|steps?|iter(?:ation)?s?|updates?|policy"
_NAME = re.compile(
    rf"(?P<before>|.*[^a-z]|.*(?=global[-_]?step))(?P<word>{_WORDS})[-_=]?(?P<step>[0-9]{{1,18}})(?:[-_]hf)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]{1,18}")
_EPOCH = re.compile(r"(?<![a-z])(?:epoch|ep)[-_=]?([0-9]+)", re.IGNORECASE)
_SET_ASIDE = re.compile(
    r"^\.|(?:^|[^a-z])(?:tmp|temp|partial|incomplete|old|backup|bak|stale|broken|failed|bad)"
    r"(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class StepName:
    """A name that says a step.

    Attributes:
        kind: the same for the checkpoints of one run: what stands before the number, without it.
        epoch: the number after "epoch" in it; -1 if there is none.
    """

    name: str
    step: int
    kind: str
    epoch: int = -1


def parse(name: str) -> StepName | None:
    """The step in a name; None if there is none, or it names something unfinished or set aside."""
    match = _NAME.fullmatch(name)
    if match is None or is_set_aside(name):
        return None
    epoch = _EPOCH.search(match["before"])
    before = _EPOCH.sub("epoch", match["before"])
    kind = re.sub("[-_=]", "", f"{before} {match['word']}".lower())
    return StepName(name, int(match["step"]), kind, -1 if epoch is None else int(epoch[1]))


def parse_number(name: str) -> StepName | None:
    """The step where the whole name is a number; such folders may be anything else, too."""
    return StepName(name, int(name), "number") if _NUMBER.fullmatch(name) else None


def is_set_aside(name: str) -> bool:
    """True for what a trainer has not finished (`tmp-checkpoint-40`) or somebody put aside."""
    return _SET_ASIDE.search(name) is not None


def is_epoch(name: str) -> bool:
    """True if the name counts epochs and says no step."""
    return parse(name) is None and _EPOCH.search(name) is not None


def by_step(where: object, found: Iterable[StepName]) -> dict[int, str]:
    """The names by their steps.

    Args:
        where: folder or repository, for messages.

    Raises:
        PipelineError: a step twice, names of two runs or ways of counting, steps that begin anew in
            each epoch.
    """
    names = sorted(found, key=lambda one: (one.step, one.name))
    for one, other in itertools.pairwise(names):
        if one.step == other.step:
            raise PipelineError(
                f"{where}: step {one.step} twice: {one.name} and {other.name}; {_way(where, one)}"
            )
    for other in names:
        if other.kind != names[0].kind:
            raise PipelineError(
                f"{where}: {names[0].name} and {other.name} are named in two ways, as of two runs; "
                f"{_way(where, names[0])}"
            )
    for one, other in itertools.pairwise(names):
        if one.epoch > other.epoch:
            raise PipelineError(
                f"{where}: {one.name} and {other.name}: the steps of such names begin anew in each "
                f"epoch; {_way(where, one)}"
            )
    return {one.step: one.name for one in names}


def _way(where: object, one: StepName) -> str:
    chosen = assignment("snapshot.checkpoints", {one.step: f"{where}/{one.name}"}, more=True)
    return f"say which are meant with {chosen}, or move the others away"
