"""The extrapolation methods of a run, and their plans for its trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pipeline.config import DEFAULT_HOLD, MethodConfig, PipelineConfig
from pipeline.trajectory.rule import make_rule

if TYPE_CHECKING:
    from pipeline.subject.found import Subject
    from pipeline.trajectory.plan import Plan
    from pipeline.trajectory.rule import Rule
    from pipeline.trajectory.sources import Trajectory


@dataclass(frozen=True)
class Method:
    """A method as this run is to use it: its rule, and globs of tensors that it leaves alone."""

    rule: Rule
    hold: tuple[str, ...]


def configured(config: PipelineConfig) -> dict[str, Method]:
    """Each method of the run by the name of its folder, which is its name in scores, too.

    They are those of `extrapolations`, or where that is empty the one of `extrapolation`.

    Raises:
        PipelineError: an unknown method or option.
    """
    one = config.extrapolation
    if not config.extrapolations:
        return {one.name: Method(make_rule(one.method, one.options), tuple(one.hold))}
    return {
        name: _method(config, each, f"extrapolations.{name}")
        for name, each in config.extrapolations.items()
    }


def find(subject: Subject, given: MethodConfig, key: str) -> Method:
    """A method of the run by its name, or any there is, with options of its own.

    Args:
        key: what names it in the configuration, for messages.

    Raises:
        PipelineError: an unknown method or option.
    """
    if given.method in subject.methods and not given.options:
        return subject.methods[given.method]
    return _method(subject.config, given, key)


def _method(config: PipelineConfig, given: MethodConfig, key: str) -> Method:
    hold = config.extrapolation.hold if given.hold is None else given.hold
    return Method(make_rule(given.method, given.options, key), tuple(hold))


def make_plans(
    subject: Subject, trajectory: Trajectory, wanted: Iterable[tuple[Method, Sequence[int]]]
) -> list[Plan]:
    """The plan of each method to its targets, between the steps that the run extrapolates from.

    Raises:
        PipelineError: names the bad value.
    """
    from pipeline.trajectory.plan import make_plan

    first, last = subject.ends(trajectory.steps)
    dtype, names = subject.config.weight_extrap.dtype, trajectory.base.entries
    plans = []
    for method, targets in wanted:
        hold = [  # the default alone may match nothing: a model may have no such tensor
            glob
            for glob in method.hold
            if glob != DEFAULT_HOLD or any(fnmatchcase(name, glob) for name in names)
        ]
        plans.append(make_plan(trajectory, method.rule, first, last, targets, hold, dtype))
    return plans
