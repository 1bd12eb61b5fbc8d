"""Where the steps of a re-grounded run lie on its line: a jump of N more steps counts as N steps.

Snapshots are taken before the jump of their step. A run's real steps say what it cost; along its
virtual steps it would be straight if training moved in a straight line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError

JUMPS = "regrounds.jsonl"


def virtual_steps(folders: Mapping[int, Path]) -> dict[int, float]:
    """The virtual step of each snapshot of a run that jumped; empty for any other.

    Args:
        folders: snapshot folders by real step. Beside the folder that they lie in rl_train writes
            its jumps (`JUMPS`).
    """
    files = {path.absolute().parent.parent / JUMPS for path in folders.values()}
    jumped = [file for file in sorted(files) if file.is_file()]
    return on_line(folders, jumped[0]) if jumped else {}


def on_line(steps: Iterable[int], jumps: Path) -> dict[int, float]:
    """Where real steps lie on the line of the run, given its file of jumps, if there is one.

    A row has `step`, and `virtual_step` behind the jump.
    """
    rows = read_jsonl(jumps) if jumps.is_file() else []
    ends = [(row["step"], row["virtual_step"]) for row in rows]
    return {step: _virtual(step, ends) for step in steps}


def _virtual(step: int, jumps: Iterable[tuple[int, float]]) -> float:
    at, virtual = max((jump for jump in jumps if jump[0] < step), default=(0, 0.0))
    return virtual + step - at


def check_straight(first: int, last: int, virtual: Mapping[int, float]) -> None:
    """Refuse to extrapolate over a jump: what lies on both sides of it is not one line.

    Raises:
        PipelineError: the run jumped between the two steps.
    """
    if virtual and virtual[last] - virtual[first] != last - first:
        raise PipelineError(
            f"extrapolation: the run was re-grounded between steps {first} and {last} (they are "
            f"{virtual[last] - virtual[first]:g} virtual steps apart); choose extrapolation.first "
            "and extrapolation.last between two jumps"
        )
