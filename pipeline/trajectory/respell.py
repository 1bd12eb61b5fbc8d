"""A checkpoint's tensors under the names that the base has for them.

Known prefixes first, then the conversion tables of transformers; a mapping that is not complete is
none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import hash_json, read_json
from pipeline.errors import PipelineError
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.conversions import Origin, Whole, meta_model, origins, translate
from pipeline.trajectory.entries import Entry, Extent, overlaps
from pipeline.trajectory.spellings import Prefixes, match_prefixes
from pipeline.trajectory.tying import is_head, stored_pairs

MOST_EXTENTS = 1 << 12  # of one tensor: with more, its rows lie too scattered to be read in pieces

Translation = tuple[dict[str, Origin], list[str]]

# Every checkpoint of a run is spelled alike, and every stage opens them again.
_translations: dict[str, Translation | None] = {}


def respelled(base: Checkpoint, checkpoint: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Both, the checkpoint under the base's names.

    The base changes where its head is its embedding, so has no name in its files, and the
    checkpoint stores one: that name is taken.

    Raises:
        PipelineError: the names differ in a way that is not known; says how to map them.
    """
    known = base.entries.keys() | base.ties.keys()
    odd = [name for name in checkpoint.entries if name not in known]
    if not odd:
        return base, with_ties(base, checkpoint)
    found = match_prefixes(odd, [name for name in known if name not in checkpoint.entries])
    if found.known:
        origins: dict[str, Origin] = {
            found.names.get(name, name): Whole(name) for name in checkpoint.entries
        }
    else:
        translation = _translation(base, checkpoint)
        if translation is None:
            translation = {name: Whole(name) for name in checkpoint.entries if name in known}, odd
        origins, left = translation
        base, left = _with_heads(base, checkpoint, left)
        if left:
            raise _unlike(base, checkpoint, left, found)
        origins |= {name: Whole(name) for name in checkpoint.entries if name in base.ties}
    entries = {name: assemble(checkpoint, name, origin, base) for name, origin in origins.items()}
    named = {o.source: name for name, o in origins.items() if isinstance(o, Whole)}
    made = replace(
        checkpoint,
        entries=entries,
        ties={alias: named.get(target, target) for alias, target in checkpoint.ties.items()},
        respelled=checkpoint.respelled or entries.keys() != checkpoint.entries.keys(),
    )
    return base, with_ties(base, made)


def base_names(base: Checkpoint, names: Collection[str], source: Path) -> dict[str, str]:
    """The base's names for tensors that are named as a model in memory has them (an adapter's).

    Raises:
        PipelineError: a name that the base has no counterpart for, or only in several pieces.
    """
    known = base.entries.keys() | base.ties.keys()
    odd = [name for name in names if name not in known]
    found = match_prefixes(odd, [name for name in known if name not in names])
    if not odd or found.known:
        return {name: found.names.get(name, name) for name in names}
    model = meta_model(base.folder)
    places = {} if model is None else origins(model, _shapes(base))[0]
    mapped = {name: name for name in names if name in known}
    for name in odd:
        origin = places.get(name)
        if not isinstance(origin, Whole):
            how = "the base lacks" if origin is None else "the base stores in several tensors"
            raise PipelineError(f"{source}: the adapter changes {name}, which {how}")
        mapped[name] = origin.source
    return mapped


def _translation(base: Checkpoint, checkpoint: Checkpoint) -> Translation | None:
    """What transformers' tables say of the two spellings; None if it does not know the model."""
    stored = {name: entry.shape for name, entry in checkpoint.entries.items()}
    wanted = _shapes(base)
    config = read_json(base.folder / "config.json")
    key = hash_json([config, list(stored.items()), list(wanted.items())])
    if key not in _translations:
        model = meta_model(base.folder)
        try:
            _translations[key] = None if model is None else translate(model, stored, wanted)
        except PipelineError as error:
            raise PipelineError(f"{checkpoint.weights}: {error}") from None
    return _translations[key]


def _shapes(base: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Of all tensors by name, those that are another one's included."""
    shapes = {name: entry.shape for name, entry in base.entries.items()}
    return shapes | {a: shapes[target] for a, target in base.ties.items() if target in shapes}


def _with_heads(
    base: Checkpoint, checkpoint: Checkpoint, odd: Sequence[str]
) -> tuple[Checkpoint, list[str]]:
    """The base with the checkpoint's name for a head that is its embedding; and what is left."""
    left = []
    for name in odd:
        alias = next((a for a in base.ties if is_head(a) and a not in checkpoint.entries), None)
        shape = base.entries[base.ties[alias]].shape if alias is not None else ()
        if alias is None or not is_head(name) or checkpoint.entries[name].shape[1:] != shape[1:]:
            left.append(name)
            continue
        others = {a: target for a, target in base.ties.items() if a != alias}
        base = replace(base, ties=others | {name: base.ties[alias]})
    return base, left


def _unlike(
    base: Checkpoint, checkpoint: Checkpoint, odd: Sequence[str], found: Prefixes
) -> PipelineError:
    """What to say of names that the base has not, `odd`, and of which prefixes map some."""
    left = [name for name in odd if name not in found.names]
    others = f" and {len(left) - 1} more" if len(left) > 1 else ""
    if len(found.names) > len(left) and not (left and found.known_rules):
        old, new = found.rules[0]
        name = next(n for n in found.names if n.startswith(old))
        rest = f" ({left[0]}{others} has no counterpart)" if left else ""
        return PipelineError(
            f"{checkpoint.weights}: names differ by the prefix {old or new!r} from "
            f"{base.weights} ({name} for {found.names[name]}); map them with {found.option()}{rest}"
        )
    named = {found.names.get(name, name) for name in checkpoint.entries}
    missing = [name for name in base.entries if name not in named]
    if missing:
        return PipelineError(
            f"{checkpoint.weights}: tensor {left[0]}{others} is extra, and {missing[0]} is missing "
            f"(by the names of {base.weights}); if these are other names of the same model, map "
            'them with "snapshot.rename={OLD_PREFIX: NEW_PREFIX}", or convert the checkpoint'
        )
    return PipelineError(
        f"{checkpoint.weights}: tensor {left[0]}{others} is extra ({base.weights} lacks it); give "
        "as snapshot.base the model that has it, or leave it out with "
        f'"snapshot.rename={{{left[0]}: null}}"'
    )


def with_ties(base: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose ties are named as the base's; of a pair it keeps what the base keeps."""
    if not checkpoint.ties:
        return checkpoint
    known = dict(stored_pairs(base.entries)) | dict(base.ties)
    entries, ties = dict(checkpoint.entries), {}
    for alias, target in checkpoint.ties.items():
        pair = _same_pair(alias, target, known)
        if pair is None:
            ties[alias] = target
            continue
        other = pair[0] if target == pair[1] else pair[1]
        if target not in base.entries and other in base.entries:
            entries[other] = replace(entries.pop(target), name=other)
            target, other = other, target
        ties[other] = target
    moved = entries.keys() != checkpoint.entries.keys()
    respelled = checkpoint.respelled or moved
    return replace(checkpoint, entries=entries, ties=ties, respelled=respelled)


def _same_pair(alias: str, target: str, known: Mapping[str, str]) -> tuple[str, str] | None:
    """The base's (alias, target) that a checkpoint's pair of names is."""
    if known.get(alias) == target:
        return alias, target
    heads = is_head(alias) or is_head(target)
    pairs = (p for p in known.items() if target in p and heads == is_head(p[0]))
    return next(pairs, None)


def assemble(checkpoint: Checkpoint, name: str, origin: Origin, base: Checkpoint) -> Entry:
    """One of the base's tensors out of a checkpoint's.

    Raises:
        PipelineError: rows of other lengths or dtypes, or too many pieces.
    """
    entries = checkpoint.entries
    if isinstance(origin, Whole):
        return replace(entries[origin.source], name=name)
    shape = base.entries[name].shape
    sources = [entries[segment.source] for segment in origin]
    dtypes = {source.dtype for source in sources}
    if len(dtypes) > 1 or any(s.shape[-1:] != shape[-1:] for s in sources if len(shape) > 1):
        raise PipelineError(
            f"{checkpoint.weights}: tensor {name} is made of {sources[0].name} and others, which "
            "differ in dtype or width; convert the checkpoint with save_pretrained"
        )
    extents: list[Extent] = []
    for segment, source in zip(origin, sources, strict=True):
        extents += _rows(source, segment.first, segment.first + segment.count)
    if len(extents) > MOST_EXTENTS:
        raise PipelineError(
            f"{checkpoint.weights}: tensor {name} lies in {len(extents)} pieces of "
            f"{sources[0].name}; convert the checkpoint with save_pretrained"
        )
    return Entry(name, dtypes.pop(), shape, tuple(extents))


def slice_rows(entry: Entry, first: int, last: int) -> Entry:
    """Rows [first, last) of the first dimension."""
    width = entry.numel // entry.shape[0]
    extents = _cut(entry, first * width, last * width)
    return Entry(entry.name, entry.dtype, (last - first, *entry.shape[1:]), tuple(extents))


def _rows(entry: Entry, first: int, last: int) -> list[Extent]:
    """Where rows of the last dimension lie (in a vector: elements)."""
    width = entry.shape[-1] if len(entry.shape) > 1 else 1
    return _cut(entry, first * width, last * width)


def _cut(entry: Entry, start: int, stop: int) -> list[Extent]:
    """Where elements [start, stop) lie.

    Raises:
        PipelineError: not in a file as they are (an adapter's or a delta's sum).
    """
    if not entry.plain:
        raise PipelineError(
            f"{min(entry.paths)}: tensor {entry.name} is a sum of stored tensors, which cannot be "
            "taken apart; export the checkpoint first (snapshot.export)"
        )
    size = entry.dtype.itemsize
    return [
        Extent(extent.path, extent.offset + low, high - low)
        for extent, low, high in overlaps(entry, start * size, stop * size)
    ]
