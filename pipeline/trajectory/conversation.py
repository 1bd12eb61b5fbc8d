"""Whether a run's checkpoints pose and end a turn as its base does.

All models of a run are asked in the base's chat template and stop at its end tokens, so that their
scores compare; a checkpoint trained with others would be asked for what it never saw, or run on
until it is cut off, and its scores would look like a worse model's.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import read_object
from pipeline.trajectory.companions import CONFIG, GENERATION, companions
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.tokenizer import Facts, TokenizerError, read_facts

Ends = frozenset[int]


def check_conversation(trajectory: Trajectory) -> str:
    """What to say of the last checkpoint's chat template and end tokens; "" if they are the base's.

    A checkpoint without such files has the base's. One that ends at some of the base's tokens only
    stops where it would by itself.
    """
    base, last = trajectory.base, trajectory.checkpoints[trajectory.steps[-1]]
    taken = companions(last, base)
    own, folder = base.folder, taken.tokenizer or last.folder
    if folder == own:
        return ""
    here, there = _facts(own, own), _facts(folder, own) if taken.tokenizer else {}
    said = []
    if there.get("chat template") and there["chat template"] != here.get("chat template"):
        said.append("the chat template")
    ends, more = _engine_ends(own, here), _ends(folder, there) - _ends(own, here)
    if ends and (more := more - ends):
        said.append(f"end tokens ({_listed(more)}, not only {_listed(ends)})")
    return f"{' and '.join(said)} of {folder} differ from {own}'s" if said else ""


def _facts(folder: Path, own: Path) -> Facts:
    """Of the tokenizer in a folder; none of one that cannot be loaded."""
    try:
        return read_facts(folder, folder if (folder / CONFIG).exists() else own)
    except TokenizerError:
        return {}


def _engine_ends(folder: Path, facts: Facts) -> Ends:
    """Where engines started on a folder stop: `hf.engine.stop_tokens` without the model."""
    path = next((p for name in (GENERATION, CONFIG) if (p := folder / name).exists()), None)
    return _stated(path) or _token(facts)


def _ends(folder: Path, facts: Facts) -> Ends:
    """All that a folder names as an end: by its generation config, and by its tokenizer."""
    return _stated(folder / GENERATION) | _token(facts)


def _stated(path: Path | None) -> Ends:
    ids = read_object(path).get("eos_token_id") if path is not None and path.exists() else None
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def _token(facts: Facts) -> Ends:
    token = facts.get("eos token", [None, None])[1]
    return frozenset() if token is None else frozenset([token])


def _listed(ids: Ends) -> str:
    return ", ".join(map(str, sorted(ids)))
