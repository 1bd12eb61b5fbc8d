"""Bring the checkpoints of one run to the same tensors: the base's names, shapes and ties.

Trainers save one model in many spellings, leave out what they do not train or pad, and untie a head
or tie it. Afterwards every checkpoint has every tensor of the base, so the arithmetic knows nothing
of all this; what cannot be brought there is refused, with the option that would.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.errors import PipelineError
from pipeline.trajectory.architecture import check_alike
from pipeline.trajectory.checkpoint import Checkpoint, weight_files
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.respell import respelled, slice_rows, with_ties
from pipeline.trajectory.shards import Files
from pipeline.trajectory.spellings import Matching
from pipeline.trajectory.stream import loaded
from pipeline.trajectory.tying import equal, is_vocabulary

LOOKED_AT = 1 << 20  # elements of a tensor that is no weight: a mask shows its infinities there
LAYER = re.compile(r"\D*\d+\.")  # the beginning of names in one layer
KEEP = "set snapshot.only_in_base=keep"


def align(checkpoints: Sequence[Checkpoint], matching: Matching) -> list[Checkpoint]:
    """The same checkpoints with the same tensors: those of the first, which is the base.

    Reads headers, and the values of small buffers and of heads that may be tied.

    Raises:
        PipelineError: names that cannot be mapped, a tensor that is missing, extra or of another
            shape, a configuration that computes otherwise; names the first, and the option that
            helps.
    """
    base = checkpoints[0]
    later = []
    for checkpoint in checkpoints[1:]:
        check_alike(base.folder, checkpoint.folder)
        base, found = respelled(base, checkpoint)
        later.append(found)
    base, *later = _parted([base, *(with_ties(base, checkpoint) for checkpoint in later)])
    later = [_completed(checkpoint, base, matching) for checkpoint in later]
    _check_kept(later)
    fixed = _fixed([base, *later])
    return [replace(c, fixed=fixed, files=weight_files(c.entries)) for c in (base, *later)]


def _parted(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Where one checkpoint has a head of its own, all have: a tied one is its embedding."""
    own = {name for checkpoint in checkpoints for name in checkpoint.entries}
    found = []
    for checkpoint in checkpoints:
        made = {
            alias: replace(checkpoint.entries[target], name=alias)
            for alias, target in checkpoint.ties.items()
            if alias in own and target in checkpoint.entries
        }
        if made:
            ties = {a: t for a, t in checkpoint.ties.items() if a not in made}
            entries = dict(checkpoint.entries) | made
            checkpoint = replace(checkpoint, entries=entries, ties=ties, parted=True)
        found.append(checkpoint)
    return found


def _completed(checkpoint: Checkpoint, base: Checkpoint, matching: Matching) -> Checkpoint:
    """A checkpoint with all tensors of the base, in its order."""
    missing = [name for name in base.entries if name not in checkpoint.entries]
    if missing and not matching.keep:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise PipelineError(
            f"{checkpoint.weights}: tensor {missing[0]}{others} is missing ({base.weights} has it);"
            f" if the run never had it (MTP layers, buffers), {KEEP}, which takes the base's"
        )
    _check_lost(checkpoint, missing)
    entries, kept = {}, dict.fromkeys(missing, 0)
    for name, entry in base.entries.items():
        own = checkpoint.entries.get(name, entry)
        if own.shape != entry.shape:
            kept[name] = own.shape[0] if own.shape else 0
            own = _with_rows(own, entry, checkpoint, base, matching)
        entries[name] = own
    return replace(checkpoint, entries=entries, kept=kept)


def _check_lost(checkpoint: Checkpoint, missing: Sequence[str]) -> None:
    """What a run has in other layers, and has in part in this one, it has lost.

    Raises:
        PipelineError: names the first such tensor.
    """
    if not missing:
        return
    kinds = {_kind(name) for name in checkpoint.entries}
    layers = {match[0] for match in map(LAYER.match, checkpoint.entries) if match}
    for name in missing:
        layer = LAYER.match(name)
        if layer and layer[0] in layers and _kind(name) in kinds:
            raise PipelineError(
                f"{checkpoint.weights}: tensor {name} is missing, and the run has it in other "
                "layers: the checkpoint is incomplete; copy it again or leave it out"
            )


def _kind(name: str) -> str:
    """A name with its numbers blanked: one for the same tensor of every layer."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _with_rows(
    own: Entry, whole: Entry, checkpoint: Checkpoint, base: Checkpoint, matching: Matching
) -> Entry:
    """A vocabulary's rows, completed by those that only the base has.

    Raises:
        PipelineError: no such tensor, more rows than the base, or `only_in_base` is refuse.
    """
    shapes = (
        f"{checkpoint.weights}: tensor {own.name} has shape {list(own.shape)}, "
        f"{base.weights} has {list(whole.shape)}"
    )
    alike = own.shape[1:] == whole.shape[1:] and len(own.shape) == len(whole.shape) > 0
    if not (alike and is_vocabulary(own.name)):
        raise PipelineError(shapes)
    rows, all_rows = own.shape[0], whole.shape[0]
    if rows > all_rows:
        raise PipelineError(
            f"{shapes}; the run added {rows - all_rows} tokens: give as snapshot.base the model "
            f"that it began with, saved after model.resize_token_embeddings({rows})"
        )
    if not matching.keep:
        raise PipelineError(
            f"{shapes}; if the base is padded to {all_rows} rows, {KEEP}, which takes its rows "
            f"from {rows} on"
        )
    rest = slice_rows(whole, rows, all_rows)
    if own.plain and rest.plain and own.dtype == rest.dtype:
        return replace(own, shape=whole.shape, extents=own.extents + rest.extents)
    dtype = torch.promote_types(own.dtype, rest.dtype)
    return Entry(own.name, dtype, whole.shape, own.extents, parts=(own, rest))


def _check_kept(later: Sequence[Checkpoint]) -> None:
    """What is taken from the base must be missing in every later checkpoint.

    Raises:
        PipelineError: it is only in some of them, so it is lost rather than never there.
    """
    for checkpoint in later[1:]:
        first, second = later[0].kept, checkpoint.kept
        for name in sorted(first.keys() | second.keys()):
            if first.get(name) == second.get(name):
                continue
            lacks, other = (later[0], checkpoint) if name in first else (checkpoint, later[0])
            rows = lacks.kept[name]
            raise PipelineError(
                f"{lacks.weights}: tensor {name} {f'has {rows} rows' if rows else 'is missing'}, "
                f"unlike in {other.weights}; only what every checkpoint of the run lacks is taken "
                "from the base: copy this one again or leave it out"
            )


def _fixed(checkpoints: Sequence[Checkpoint]) -> frozenset[str]:
    """The buffers that are not finite, and the same at every checkpoint: masks of -inf, say."""
    base, *later = checkpoints
    found = set()
    with Files() as files:
        for name, entry in base.entries.items():
            weight = name.rpartition(".")[2] in ("weight", "bias") or not entry.is_float
            if weight or not _begins_like_a_mask(files, entry):
                continue
            if all(equal(entry, checkpoint.entries[name]) for checkpoint in later):
                found.add(name)
    return frozenset(found)


def _begins_like_a_mask(files: Files, entry: Entry) -> bool:
    """Whether the first values are not all finite; NaN in a matrix is damage, not a mask."""
    masked = False
    for piece, part in loaded(files, entry):
        if len(entry.shape) > 1 and bool(part.isnan().any()):
            return False
        masked = masked or not bool(part.isfinite().all())
        if piece.stop >= LOOKED_AT:
            break
    return masked
