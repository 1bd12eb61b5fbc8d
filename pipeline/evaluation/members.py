"""The mixture of models of the user's choice: Σ c_i l_i of `logit_extrap.members`.

A member is a step of the run, or any model folder (or hub id) of the same vocabulary, of any size:
a small pair on a larger model is [big: 1, small before: -α, small after: α]; a line through three
checkpoints is the sum of their logits with the line's coefficients.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.subject.base_model import model_folder, on_hub
from pipeline.subject.checkpoints import check_step

if TYPE_CHECKING:
    from pipeline.inference.parallel import Candidate
    from pipeline.subject.found import Subject

NAME = "mixture"  # of the model in rows and scores


def key(place: int) -> str:
    """The configuration's key of a member, for messages."""
    return f"logit_extrap.members[{place}].model"


def step_of(model: str) -> int | None:
    """The step that a member names, or None where it names a folder or a hub id."""
    return int(model) if model.isdecimal() else None


def check(subject: Subject) -> str:
    """Find what is wrong with the members before anything starts; the mixture in words.

    Raises:
        PipelineError: a step or folder that is not there, or another vocabulary.
    """
    from pipeline.inference.vocabulary import check_vocabularies

    known = [folder for folder in [_base(subject)] if folder is not None]
    for place, member in enumerate(subject.config.logit_extrap.members):
        step = step_of(member.model)
        if step is not None:
            if subject.steps is not None:
                check_step(key(place), step, subject.steps)
        elif Path(member.model).is_dir():
            known.append(_own(Path(member.model), place))
        elif not on_hub(member.model):
            raise PipelineError(f"{key(place)}: {member.model} is no step, no folder and no hub id")
    if known:
        check_vocabularies(known)
    return describe(subject)


def describe(subject: Subject) -> str:
    """The sum in words, with that of its coefficients."""
    members = subject.config.logit_extrap.members
    words = " ".join(f"{member.coefficient:+g} × {member.model}" for member in members)
    total = coefficient_sum(subject)
    if abs(total - 1) < 1e-9:
        return f"mixture of {len(members)} ({words}; coefficients sum to 1)"
    said = f"coefficients sum to {total:g}, not 1"
    if total > 0:
        said += f": where the members agree, as temperature {1 / total:.3g}"
    return f"mixture of {len(members)} ({words}; {said})"


def coefficient_sum(subject: Subject) -> float:
    """Σ c_i; 1 leaves the logits on which all members agree as they are."""
    return round(sum(member.coefficient for member in subject.config.logit_extrap.members), 9)


def inputs(subject: Subject) -> dict[str, Any]:
    """What decides the members beside the run's checkpoints: sizes and times of their files."""
    from pipeline.content import files_state

    found: dict[str, Any] = {}
    for member in subject.config.logit_extrap.members:
        if step_of(member.model) is None:
            found |= files_state(Path(member.model))
    return found


def open_members(subject: Subject) -> list[Path]:
    """The folder of each member; what is on the hub is fetched, and a step that no engine can
    start on is written as a folder first.

    Raises:
        PipelineError: a member that is no model, or of another vocabulary.
    """
    from pipeline.evaluation.sampling import model_folders
    from pipeline.inference.vocabulary import check_vocabularies

    members = subject.config.logit_extrap.members
    wanted = {
        place: step
        for place, member in enumerate(members)
        if (step := step_of(member.model)) is not None
    }
    for place, step in wanted.items():
        check_step(key(place), step, subject.trajectory.steps)
    steps = model_folders(subject, sorted(set(wanted.values())))
    folders = []
    for place, member in enumerate(members):
        given = steps[wanted[place]] if place in wanted else None
        folders.append(given or _own(model_folder(member.model, key(place)), place))
    check_vocabularies([subject.trajectory.base.folder, *folders])
    return folders


def mixture_candidates(subject: Subject) -> list[Candidate]:
    """The mixture, if there are members.

    Its fingerprint is the content of the members and their coefficients, in their order.
    """
    from pipeline.artifacts import hash_json
    from pipeline.content import model_weights
    from pipeline.evaluation.candidates import checkpoint_fingerprint, identity
    from pipeline.inference.parallel import Candidate
    from pipeline.trajectory.conversation import named_ends

    members = subject.config.logit_extrap.members
    if not members:
        return []
    contents: list[Any] = []
    folders = []
    for place, member in enumerate(members):
        step = step_of(member.model)
        if step is not None:
            contents.append(checkpoint_fingerprint(subject.trajectory, step))
            folders.append(subject.trajectory.checkpoints[step].folder)
        else:
            folder = model_folder(member.model, key(place))
            subject.warn_of_ends(key(place), named_ends(folder))
            contents.append(model_weights(folder, subject.hashes))
            folders.append(folder)
    coefficients = [member.coefficient for member in members]
    extra = {
        "members": [{"model": m.model, "coefficient": m.coefficient} for m in members],
        "coefficient_sum": coefficient_sum(subject),
    }
    content = identity(subject, hash_json([contents, coefficients]), folders, folders)
    return [Candidate(NAME, "mixture", content, None, extra)]


def _base(subject: Subject) -> Path | None:
    """The folder whose vocabulary is the run's, where it is known before the run."""
    if "snapshot" not in subject.config.stages:
        return subject.trajectory.base.folder
    if subject.planned is not None:
        return subject.planned.base.folder
    path = subject.config.model.path
    return Path(path) if path is not None and (Path(path) / "config.json").is_file() else None


def _own(folder: Path, place: int) -> Path:
    """A folder that is a member, with weights and a vocabulary of its own.

    Raises:
        PipelineError: it lacks one of these.
    """
    from pipeline.content import WEIGHTS
    from pipeline.inference.vocabulary import has_tokenizer

    there = {
        "config.json": (folder / "config.json").is_file(),
        "weights": any(next(folder.glob(one), None) for one in WEIGHTS),
        "tokenizer": has_tokenizer(folder),
    }
    if lacks := [what for what, is_there in there.items() if not is_there]:
        raise PipelineError(
            f"{key(place)}: {folder} has no {lacks[0]}; give a whole model folder (a step of the "
            "run by its number)"
        )
    return folder
