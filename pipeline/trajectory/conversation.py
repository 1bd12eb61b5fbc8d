"""How the models of a run are asked and where they stop: in one way, so that their scores compare.

All are asked in the base's chat template. All stop at what the base or the run's last checkpoint
names as an end (`end_tokens`): a checkpoint that was trained with an end of its own and does not
stop there runs on until it is cut off, and its score looks like a worse model's. Which model an
engine was started on, and whether it is one model or a mixture, decides nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.companions import CONFIG, GENERATION, VOCABULARY, companions
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.tokenizer import Facts, TokenizerError, read_facts

Ends = frozenset[int]


def check_conversation(trajectory: Trajectory) -> str:
    """What to say of the last checkpoint's chat template and end tokens; "" if they are the base's.

    A checkpoint without such files has the base's. One that ends at some of the base's tokens only
    stops where it would by itself.
    """
    own = trajectory.base.folder
    folder, *_ = folders = turn_folders(trajectory)
    here, there = _facts(own, own), _facts(folder, own)
    said = []
    if there.get("chat template") and there["chat template"] != here.get("chat template"):
        said.append("the chat template")
    ends = _base_ends(own, here)
    if ends and (more := _added(folders, own) - ends):
        said.append(f"end tokens ({_listed(more)}, not only {_listed(ends)})")
    place = folders[-1] if folder == own else folder
    return f"{' and '.join(said)} of {place} differ from {own}'s" if said else ""


def turn_folders(trajectory: Trajectory) -> list[Path]:
    """Where the last checkpoint's tokenizer is, and the folder of its weights where that is another
    one: many trainers save a generation config beside the weights and no tokenizer."""
    base, last = trajectory.base, trajectory.checkpoints[trajectory.steps[-1]]
    return list(dict.fromkeys([companions(last, base).tokenizer or last.folder, last.folder]))


def end_tokens(trajectory: Trajectory) -> list[int]:
    """The ids at which a response ends, whichever model of the run gives it, ascending.

    Those that the base or the last checkpoint names in its generation config or by its tokenizer;
    the base's configuration, where it has no generation config. Ids beyond the logits, which no
    model can draw, are left out.

    Raises:
        PipelineError: one that is no token id.
    """
    own = trajectory.base.folder
    ends = _base_ends(own, _facts(own, own)) | _added(turn_folders(trajectory), own)
    size = _rows(own)
    return sorted(token for token in ends if size is None or token < size)


def default_ends(folder: Path) -> list[int]:
    """Where an engine that is started on a folder stops if it is not told: what the HF engine's
    `stop_tokens` says of a loaded model."""
    return sorted(_configured(folder) or _token(_facts(folder, folder)))


def named_ends(folder: Path) -> Ends:
    """All that a model folder names as an end."""
    return _base_ends(folder, _facts(folder, folder))


def _facts(folder: Path, own: Path) -> Facts:
    """Of the tokenizer in a folder; none where there is none, or one that cannot be loaded."""
    if not any(VOCABULARY.fullmatch(path.name) for path in folder.iterdir()):
        return {}
    try:
        return read_facts(folder, folder if (folder / CONFIG).exists() else own)
    except TokenizerError:
        return {}


def _base_ends(folder: Path, facts: Facts) -> Ends:
    return _configured(folder) | _token(facts)


def _configured(folder: Path) -> Ends:
    """What the generation config says, or config.json where there is none."""
    generation = folder / GENERATION
    return _stated(generation if generation.exists() else folder / CONFIG)


def _added(folders: Sequence[Path], own: Path) -> Ends:
    """What the last checkpoint's folders (`turn_folders`) name."""
    stated = [_stated(folder / GENERATION) for folder in folders]
    return frozenset().union(*stated, _token(_facts(folders[0], own)))


def _stated(path: Path) -> Ends:
    """What a file names; nothing where it is not there."""
    ids = read_object(path).get("eos_token_id") if path.exists() else None
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    for token in found:
        if type(token) is not int or token < 0:
            raise PipelineError(
                f"{path}: eos_token_id {token!r} is no token id; give a whole number, or a list"
            )
    return frozenset(found)


def _rows(folder: Path) -> int | None:
    """Of the logits, as config.json has it."""
    config = read_object(folder / CONFIG) if (folder / CONFIG).exists() else {}
    inner = config.get("text_config") or {}
    size = config.get("vocab_size", inner.get("vocab_size"))
    return size if type(size) is int else None


def _token(facts: Facts) -> Ends:
    token = facts.get("eos token", [None, None])[1]
    return frozenset() if token is None else frozenset([token])


def _listed(ids: Ends) -> str:
    return ", ".join(map(str, sorted(ids)))
