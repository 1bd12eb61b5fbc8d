"""One step of a run, whatever its layout on disk: names, and the bytes that hold their values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import read_json
from pipeline.errors import PipelineError
from pipeline.trajectory.shards import Entry

TIED_HEAD = "lm_head.weight"


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
        tied: names that the config makes another tensor's; they are not among the entries.
    """

    step: int
    source: Path
    folder: Path
    layout: str
    entries: dict[str, Entry]
    files: tuple[WeightFile, ...]
    tied: tuple[str, ...]

    @property
    def loadable(self) -> bool:
        """True if `folder` is a HF model folder with weights, as engines load it."""
        return self.layout in ("safetensors", "torch bin")

    @property
    def weights(self) -> Path:
        """The folder to name where the weights are meant; `folder` may be the base's."""
        return self.folder if self.loadable else self.source


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


def tied_names(folder: Path, entries: dict[str, Entry]) -> tuple[str, ...]:
    """The names that `config.json` ties to the input embedding: ("lm_head.weight",) or ().

    A tied head that a trainer stored all the same is the embedding once more; leaving it out
    keeps it from ever overwriting the embedding on loading.

    Raises:
        PipelineError: the config says the head is not tied, and it is absent.
    """
    config = read_json(folder / "config.json")
    nested = config.get("text_config")
    tie = (nested if isinstance(nested, dict) else config).get(
        "tie_word_embeddings", config.get("tie_word_embeddings")
    )
    heads = [n for n in entries if n == TIED_HEAD or n.endswith("." + TIED_HEAD)]
    embedded = any(n.endswith("embed_tokens.weight") for n in entries)
    if tie:
        return tuple(heads) or (TIED_HEAD,)
    if tie is False and embedded and not heads:
        raise PipelineError(
            f"{folder}: {TIED_HEAD} is absent and config.json has tie_word_embeddings=false; "
            "the checkpoint is incomplete"
        )
    return () if heads or not embedded else (TIED_HEAD,)


def check_experts(folder: Path, entries: dict[str, Entry]) -> None:
    """A mixture of experts must have every expert that its config counts, in every layer.

    Raises:
        PipelineError: names the first expert that is missing.
    """
    config = read_json(folder / "config.json")
    nested = config.get("text_config")
    config = config | nested if isinstance(nested, dict) else config
    count = next(
        (int(config[k]) for k in ("num_experts", "num_local_experts", "n_routed_experts")
         if config.get(k)),
        0,
    )  # fmt: skip
    groups: dict[str, set[int]] = {}
    for name in entries:
        before, marker, after = name.partition(".experts.")
        index = after.split(".")[0]
        if marker and index.isdigit():
            groups.setdefault(before, set()).add(int(index))
    for before, present in groups.items():
        missing = sorted(set(range(count)) - present)
        if missing:
            raise PipelineError(
                f"{folder}: {before}.experts.{missing[0]} is missing, config.json counts {count} "
                "experts; the checkpoint is incomplete"
            )
