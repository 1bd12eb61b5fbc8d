"""A method with its options, as it was configured: checked, and turned into coefficients."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_type_hints

import numpy as np

from pipeline.errors import PipelineError
from pipeline.fields import check_fields
from pipeline.trajectory.coefficients import METHODS, Matrix, Method, Vector, capped, damped
from pipeline.trajectory.renamed import RENAMED

COMMON_OPTIONS = {  # of every method
    "damping": float,
    "max_norm": float | None,
    "alpha_by_tensor": dict[str, float],
}


@dataclass(frozen=True)
class Rule:
    """What a method makes of steps and a target.

    Attributes:
        key: what it is called in the configuration, for messages, e.g. "extrapolations.rank1".
        options: the method's own.
        damping: factor on the step beyond the last checkpoint, for every method.
        max_norm: limit of that step before damping, in lengths of the last movement, tensor by
            tensor (`capped`); None for none.
        alpha_by_tensor: (glob, alpha) pairs; the first that matches a name replaces its target.
    """

    key: str
    name: str
    method: Method
    options: dict[str, Any]
    damping: float
    max_norm: float | None
    alpha_by_tensor: tuple[tuple[str, float], ...]

    @property
    def needs_gram(self) -> bool:
        """True if c depends on each tensor's Gram matrix of deltas."""
        return self.method.needs_gram or self.max_norm is not None

    @property
    def by_scalar(self) -> bool:
        """True if each scalar's step is to be gated by its own R², which no c can express.

        A trust region then is that of the line: the gate only shortens the step further.
        """
        return self.options.get("by") == "scalar"

    @property
    def by_tensor(self) -> bool:
        """True if c is not the same for all tensors."""
        return self.needs_gram or bool(self.alpha_by_tensor)

    def coefficients(
        self, steps: Sequence[int], name: str, gram: Matrix | None, target: int
    ) -> Vector:
        """c [K] of the tensor `name`, fp64; `gram` [K, K] only where `needs_gram`.

        Raises:
            PipelineError: an option that does not fit the number of checkpoints.
        """
        goal = float(target)
        for glob, factor in self.alpha_by_tensor:
            if fnmatchcase(name, glob):
                goal = steps[0] + factor * (steps[-1] - steps[0])
                break
        try:
            c = self.method.coefficients(steps, gram, goal, **self.options)
        except PipelineError as error:
            raise PipelineError(f"{self.key}.{error}") from None
        if self.max_norm is not None and gram is not None:
            c = capped(c, gram, self.max_norm)
        return damped(c, self.damping)

    def used_steps(self, steps: Sequence[int], first: int, last: int) -> list[int]:
        """The steps that the method reads out of a trajectory's, in order, theta_0's first.

        Raises:
            PipelineError: an end is not among the steps, first is not before last, too few between,
                or an option that does not fit their number.
        """
        for end, step in (("first", first), ("last", last)):
            if step not in steps:
                known = ", ".join(map(str, steps))
                raise PipelineError(
                    f"extrapolation.{end}={step}: no such checkpoint; steps: {known}"
                )
        if first >= last:
            raise PipelineError(
                f"extrapolation.first={first} must be below extrapolation.last={last}"
            )
        used = [step for step in sorted(steps) if first <= step <= last]
        if len(used) < self.method.least:
            raise PipelineError(
                f"{self.key}: {self.name} needs {self.method.least} checkpoints, steps {first} to "
                f"{last} hold {len(used)}"
            )
        used = [first, last] if self.method.uses == "ends" else used
        still = np.zeros((len(used), len(used)))
        self.coefficients(used, "", still if self.needs_gram else None, last)
        return used

    def check_targets(self, targets: Sequence[int], last: int) -> None:
        """Refuse targets that the method cannot predict.

        Raises:
            PipelineError: names the target.
        """
        early = [target for target in targets if target < last]
        limited = self.max_norm is not None and self.method.max_norm is None
        if early and (self.method.beyond or self.damping != 1.0 or limited):
            raise PipelineError(
                f"weight_extrap.targets: {early[0]} is before extrapolation.last={last}; damping, "
                f"max_norm and gating act on the step beyond it ({self.key})"
            )

    def check_sum(self) -> None:
        """Refuse options whose weights are no sum of checkpoints: they have no recipe.

        Raises:
            PipelineError: each scalar has a factor of its own.
        """
        if self.by_scalar:
            raise PipelineError(
                f"{self.key}.options.by=scalar: such weights are no sum of checkpoints; write them "
                "with the weight_extrap stage"
            )


def make_rule(
    name: str, options: Mapping[str, Any] | None = None, key: str = "extrapolation"
) -> Rule:
    """The method `name` with these options.

    Args:
        options: the method's own, and for every method `damping` (float), `max_norm` (float or
            None) and `alpha_by_tensor` ({glob: alpha}).
        key: of the configuration.

    Raises:
        PipelineError: names the method, or the option.
    """
    if name not in METHODS:
        if name in RENAMED:
            raise PipelineError(f"{key}.method: {name} is now called {RENAMED[name]}")
        known = ", ".join(METHODS)
        raise PipelineError(f"{key}.method: unknown extrapolation method {name!r}; known: {known}")
    method = METHODS[name]
    options = options or {}
    hints = get_type_hints(method.coefficients)
    allowed = [*list(inspect.signature(method.coefficients).parameters)[3:], *COMMON_OPTIONS]
    for option in options:
        if option not in allowed:
            raise PipelineError(f"{key}.options.{option}: {name} takes {', '.join(allowed)}")
    check_fields(f"{key}.options", options, {**hints, **COMMON_OPTIONS})
    for option, value in options.items():
        numbers = list(value.values()) if isinstance(value, Mapping) else [value]
        bad = [n for n in numbers if isinstance(n, float) and not math.isfinite(n)]
        bad += [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n < 0]
        if bad:
            raise PipelineError(f"{key}.options.{option}: {bad[0]} is not 0 or more")
    own = dict(options)
    damping = float(own.pop("damping", 1.0))
    if damping < 0:
        raise PipelineError(f"{key}.options.damping: {damping} is not 0 or more")
    max_norm = own.pop("max_norm", method.max_norm)
    if max_norm is not None and max_norm <= 0:
        raise PipelineError(f"{key}.options.max_norm: {max_norm} is not above 0; null: no limit")
    pairs = dict(own.pop("alpha_by_tensor", {})).items()
    limit = None if max_norm is None else float(max_norm)
    alphas = tuple((str(glob), float(alpha)) for glob, alpha in pairs)
    return Rule(key, name, method, own, damping, limit, alphas)
