"""One step of a run, whatever its layout on disk: names, and the bytes that hold their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.tying import has_own_head, may_drop_head

MODEL_LAYOUTS = ("safetensors", "torch bin")  # a folder of these is a HF model


@dataclass(frozen=True)
class WeightFile:
    """A file that holds weights; `sha256` is None until it was hashed."""

    path: Path
    nbytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One step of a run.

    Attributes:
        source: the folder that was found or given for this step.
        folder: where its config and tokenizer files are; the model folder itself for HF layouts.
        layout: how it was read, e.g. "safetensors" or "verl fsdp".
        ties: names that are another tensor's, with that one's name; they are not among the entries.
        respelled: True if entries have other names than the files give them, or are cut anew.
        rules: beginnings of names that the user's rules changed.
        parted: True if a tied head was made a tensor, since another checkpoint has one.
        kept: what was taken from the base, by name: after how many rows of its own, 0 for all.
        fixed: names of buffers that are not finite and the same at all checkpoints.
    """

    step: int
    source: Path
    folder: Path
    layout: str
    entries: dict[str, Entry]
    files: tuple[WeightFile, ...]
    ties: Mapping[str, str] = field(default_factory=dict)
    respelled: bool = False
    rules: frozenset[str] = frozenset()
    parted: bool = False
    kept: Mapping[str, int] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()

    @property
    def tied(self) -> tuple[str, ...]:
        """The names that are another tensor's."""
        return tuple(self.ties)

    @property
    def is_model(self) -> bool:
        """True if `folder` is a HF model folder with these weights."""
        return self.layout.partition(" under ")[0] in MODEL_LAYOUTS

    @property
    def loadable(self) -> bool:
        """True if engines that load `folder` as it is hold these entries, and no others.

        Not so where names or shapes were changed to match the base, or where the config ties a head
        that is stored as a tensor of its own.
        """
        if self.layout not in MODEL_LAYOUTS or self.respelled or self.parted or self.kept:
            return False
        return not (has_own_head(self.entries) and may_drop_head(self.folder))

    @property
    def weights(self) -> Path:
        """The folder to name where the weights are meant; `folder` may be the base's."""
        return self.folder if self.is_model else self.source


@dataclass(frozen=True)
class Found:
    """What a layout's reader returns: its name, the config folder (None: the base's), tensors."""

    layout: str
    folder: Path | None
    entries: dict[str, Entry]


def weight_files(entries: dict[str, Entry], others: Iterable[Path] = ()) -> tuple[WeightFile, ...]:
    """Every file that the tensors lie in, and `others` that decide their values, once, in order
    of path."""
    paths = sorted({path for entry in entries.values() for path in entry.paths} | set(others))
    return tuple(WeightFile(p, p.stat().st_size, p.stat().st_mtime_ns) for p in paths)


def check_experts(folder: Path, entries: dict[str, Entry]) -> None:
    """A mixture of experts must have every expert that its config counts, in every layer.

    Raises:
        PipelineError: names the first expert that is missing.
    """
    count = _expert_count(folder)
    groups: dict[tuple[str, str], set[int]] = {}
    for name in entries:
        before, marker, after = name.partition(".experts.")
        index, _, rest = after.partition(".")
        if marker and index.isdigit():
            groups.setdefault((before, rest), set()).add(int(index))
    for (before, rest), present in groups.items():
        missing = sorted(set(range(count)) - present)
        if missing:
            raise PipelineError(
                f"{folder}: {before}.experts.{missing[0]}.{rest} is missing, config.json counts "
                f"{count} experts; the checkpoint is incomplete"
            )


def _expert_count(folder: Path) -> int:
    """How many experts a layer has by config.json; 0 where it does not say."""
    config = read_object(folder / "config.json")
    config |= config.get("text_config") or {}
    keys = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((config[key] for key in keys if config.get(key)), 0)
