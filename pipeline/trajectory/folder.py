"""An output model folder: everything that belongs to a model beside its weights.

It grows under a hidden name and is renamed when complete, so a killed run never leaves a folder
that looks finished; started again with the same plan, it keeps the shards that are whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json, read_object, write_json
from pipeline.trajectory.companions import Companions
from pipeline.trajectory.share import Share, meet, wait_for
from pipeline.trajectory.tokenizer import check_tokenizer
from pipeline.trajectory.tying import has_own_head, main_embedding
from pipeline.trajectory.writer import Shard, write_index

RECORD = "extrapolation.json"
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "decoder")
# What a start that was killed left: half a shard must not be completed by another start's markers.
STALE = (".model*", ".rows.*", ".failed.*")


class ModelFolder:
    """A complete HF model folder in the making, by one process or several."""

    def __init__(self, path: Path, plan: str, share: Share) -> None:
        """Begin `path`, or resume it if it was begun with the same plan (a hash).

        With several processes this waits for all of them.
        """
        self.path = path
        self.partial = path.with_name(f".{path.name}.{plan[:12]}.partial")
        self._plan = plan
        self._share = share
        self.partial.mkdir(parents=True, exist_ok=True)
        if share.rank == 0:  # what other plans began
            for other in path.parent.glob(f".{path.name}.*.partial"):
                if other != self.partial:
                    shutil.rmtree(other)
            for pattern in STALE:
                for left in self.partial.glob(pattern):
                    left.unlink()
        meet(self.partial, share)

    @staticmethod
    def finished(path: Path, plan: str) -> dict[str, Any] | None:
        """The record of a folder that was already made by the same plan, else None.

        A recipe has a record of the same plan and no weights beside it.
        """
        record = path / RECORD
        if not record.exists():
            return None
        value = read_json(record)
        return value if value.get("plan") == plan and "recipe" not in value else None

    def has(self, shard: Shard) -> bool:
        """True if an earlier start completed this shard."""
        return (self.partial / shard.filename).exists()

    def finish(
        self,
        shards: Sequence[Shard],
        beside: Companions,
        dtype: str,
        record: dict[str, Any],
        rows: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Add index, config, tokenizer and record, check them, then give the folder its name.

        With several processes, the first does it when all have handed in their rows, and the
        others wait for it.

        Args:
            beside: the files that belong to the model beside its weights.
            dtype: for config.json, e.g. "bfloat16".
            record: content of extrapolation.json but for `tensors`.
            rows: this process's part of `tensors`.

        Returns:
            The content of extrapolation.json.

        Raises:
            PipelineError: the tokenizer is not that of its source.
        """
        if self._share.world > 1:
            write_json(self._rows(self._share.rank), rows)
            if self._share.rank > 0:
                self._wait_for(lambda: self.finished(self.path, self._plan) is not None)
                return dict(read_json(self.path / RECORD))
            ranks = range(self._share.world)
            self._wait_for(lambda: all(self._rows(rank).exists() for rank in ranks))
            self._wait_for(lambda: all(self.has(shard) for shard in shards))
            rows = [row for rank in ranks for row in read_json(self._rows(rank))]
        order = {e.name: i for i, e in enumerate(e for shard in shards for e in shard.entries)}
        record = record | {"tensors": sorted(rows, key=lambda row: order[row["name"]])}
        write_index(self.partial, shards)
        for relative, source in beside.files.items():
            target = self.partial / relative
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
        tensors = {entry.name: entry for shard in shards for entry in shard.entries}
        _set_config(self.partial / "config.json", dtype, has_own_head(tensors))
        embedding = main_embedding(tensors)
        tokens = None if embedding is None else tensors[embedding].shape[0]
        check_tokenizer(self.partial, beside, tokens)
        write_json(self.partial / RECORD, record)
        self._give_name()
        return record

    def _wait_for(self, done: Callable[[], bool]) -> None:
        wait_for(done, self.partial, self._share)

    def _rows(self, rank: int) -> Path:
        return self.partial / f".rows.{rank}-of-{self._share.world}.json"

    def _give_name(self) -> None:
        for leftover in self.partial.glob(".*"):
            leftover.unlink()
        old = self.path.with_name(f".{self.path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():  # made by another plan: out of the way, a rename needs that
            os.replace(self.path, old)
        os.replace(self.partial, self.path)
        shutil.rmtree(old, ignore_errors=True)


def _set_config(path: Path, dtype: str, untied: bool) -> None:
    """Make config.json name the dtype and the tie that the weights now have.

    Encoder-decoder models keep their flag: it also ties both sides' embeddings, and transformers
    sees by the weights that the head is one of its own.
    """
    config = read_object(path)
    config.pop("torch_dtype", None)  # the older name of the same field
    config["dtype"] = dtype
    for section in (config, config.get("text_config")):  # what is written is plain
        if isinstance(section, dict):
            section.pop("quantization_config", None)
    for nested in config.values():
        if isinstance(nested, dict) and ("dtype" in nested or "torch_dtype" in nested):
            nested.pop("torch_dtype", None)
            nested["dtype"] = dtype
    if untied and not config.get("is_encoder_decoder"):
        _untie(config)
        for key in TEXT_CONFIGS:
            if isinstance(config.get(key), dict):
                config[key]["tie_word_embeddings"] = False
    write_json(path, config)


def _untie(config: dict[str, Any]) -> None:
    """tie_word_embeddings=false here, and wherever a nested configuration says otherwise."""
    config["tie_word_embeddings"] = False
    for nested in config.values():
        if isinstance(nested, dict) and nested.get("tie_word_embeddings"):
            _untie(nested)
