"""One model's tensors under two spellings of their names: which name of one is which of the other.

Wrappers (compiled, sharded, recomputed modules) put words into names, and transformers, its older
versions and other trainers keep the body of a model under different prefixes. What is known is
mapped; what is not is refused with the option that maps it (`snapshot.rename`). A mapping holds
for all names or not at all, and one that leaves a choice is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry

WRAPPERS = (  # anywhere in a name: torch.compile, FSDP, activation checkpointing
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
)
LEADING = ("module.", "_forward_module.", "base_model.model.")  # before all names: DDP, PEFT
PREFIXES = frozenset(  # under which the body of a model lies in one library or another
    {
        *("", "model.", "base_model.", "transformer.", "gpt_neox.", "backbone."),
        *("language_model.", "language_model.model.", "model.language_model."),
        *LEADING,
    }
)
SHOWN = 3  # rules that a message proposes


@dataclass(frozen=True)
class Matching:
    """How a run's checkpoints are matched to the base that they started from.

    Attributes:
        rename: (beginning of a name, what replaces it, or None to leave such tensors out).
        keep: whether tensors and rows that only the base has are taken from it.
    """

    rename: tuple[tuple[str, str | None], ...] = ()
    keep: bool = False

    def to_plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"rename": [list(rule) for rule in self.rename], "keep": self.keep}

    @staticmethod
    def from_plain(value: Mapping[str, Any] | None) -> Matching:
        """The opposite of `to_plain`; None is the default."""
        if value is None:
            return Matching()
        return Matching(tuple((old, new) for old, new in value["rename"]), bool(value["keep"]))


def plain_names(
    source: Path, entries: Mapping[str, Entry], matching: Matching
) -> tuple[dict[str, Entry], frozenset[str]]:
    """The tensors under their names without wrappers, renamed as `matching` says.

    Returns:
        The tensors by their new names, and the beginnings in `rename` that names had.

    Raises:
        PipelineError: two tensors would have one name.
    """
    found: dict[str, Entry] = {}
    origin: dict[str, str] = {}
    names = _unwrapped(entries)
    for old, name in names.items():
        new = _renamed(name, matching)
        if new is None:
            continue
        if new in found:
            raise PipelineError(
                f"{source}: {origin[new]} and {old} are both {new} once wrappers are left out and "
                f'names mapped; leave one out with "snapshot.rename={{{old}: null}}"'
            )
        entry = entries[old]
        found[new], origin[new] = entry if new == old else replace(entry, name=new), old
    used = (old for old, _ in matching.rename if any(n.startswith(old) for n in names.values()))
    return found, frozenset(used)


def unwrapped(name: str) -> str:
    """A name without the parts that wrappers of modules have put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Names without the wrappers' parts, by their names with them."""
    found = {name: unwrapped(name) for name in names}
    while found:
        common = next((p for p in LEADING if all(n.startswith(p) for n in found.values())), None)
        if common is None:
            break
        found = {old: name.removeprefix(common) for old, name in found.items()}
    return found


def _renamed(name: str, matching: Matching) -> str | None:
    """What the longest rule makes of a name, unless it is in its new spelling already."""
    for old, new in sorted(matching.rename, key=lambda rule: -len(rule[0])):
        if name.startswith(old):
            if new is None or (new.startswith(old) and name.startswith(new)):
                return None if new is None else name
            return new + name.removeprefix(old)
    return name


@dataclass(frozen=True)
class Prefixes:
    """What prefixes do: names mapped, the rules that map them, and whether all were mapped.

    `rules` are (old prefix, new prefix), the one of most names first.
    """

    names: dict[str, str]
    rules: tuple[tuple[str, str], ...]
    complete: bool

    @property
    def known_rules(self) -> bool:
        """True if libraries are known to spell the same model in both ways."""
        return all(old in PREFIXES and new in PREFIXES for old, new in self.rules)

    @property
    def known(self) -> bool:
        """True if the names are two spellings that libraries are known to have of one model."""
        return self.complete and self.known_rules

    def option(self) -> str:
        """The rules as the user would give them."""
        rules = self.rules[:SHOWN]
        shown = ", ".join(f"{old or repr('')}: {new or repr('')}" for old, new in rules)
        return f'"snapshot.rename={{{shown}}}"'


def match_prefixes(names: Collection[str], wanted: Collection[str]) -> Prefixes:
    """Map `names` into `wanted` by replacing their beginnings.

    A rule is what remains of two names before their longest common end; a name is mapped if the
    rules bring it to exactly one of `wanted`, and none if two come to the same.
    """
    ends: dict[str, str | None] = {}
    for name in wanted:
        for part in _ends(name):
            ends[part] = None if part in ends else name
    votes: Counter[tuple[str, str]] = Counter()
    for name in names:
        end = next((e for e in _ends(name) if e in ends), None)
        other = None if end is None else ends[end]
        if end is not None and other is not None and ("." in end or end in (name, other)):
            votes[name.removesuffix(end), other.removesuffix(end)] += 1
    targets, mapped, used = set(wanted), {}, set()
    for name in names:
        images = {
            new + name.removeprefix(old): (old, new)
            for old, new in votes
            if name.startswith(old) and new + name.removeprefix(old) in targets
        }
        if len(images) == 1:
            [(mapped[name], rule)] = images.items()
            used.add(rule)
    if len(set(mapped.values())) < len(mapped):
        return Prefixes({}, (), False)
    rules = tuple(rule for rule, _ in votes.most_common() if rule in used)
    return Prefixes(mapped, rules, len(mapped) == len(names))


def _ends(name: str) -> Iterator[str]:
    """A name's ends at its dots, the longest first."""
    while name:
        yield name
        name = name.partition(".")[2]
