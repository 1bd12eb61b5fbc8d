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

from pipeline.artifacts import read_json, write_json
from pipeline.errors import PipelineError
from pipeline.trajectory.share import Share, meet, wait_for
from pipeline.trajectory.writer import Shard, write_index

RECORD = "extrapolation.json"
# What lies in checkpoint folders and is not part of a model: weights (written anew), optimizer and
# trainer state.
LEFT_OUT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".tmp", ".gguf", ".log")
LEFT_OUT_NAMES = (
    *(RECORD, "done.json", "delta.json", "adapter_config.json"),
    *("trainer_state.json", "latest", "zero_to_fp32.py"),
)
# What a start that was killed left: half a shard must not be completed by another start's markers.
STALE = (".model*", ".rows.*", ".failed.*")


def companion_files(folder: Path) -> dict[str, Path]:
    """The files of a model that are not weights, by their path relative to the folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name == "additional_chat_templates":
            found |= {f"{path.name}/{p.name}": p for p in sorted(path.iterdir()) if p.is_file()}
        elif path.is_file() and not (
            path.name.endswith(LEFT_OUT_SUFFIXES)
            or path.name in LEFT_OUT_NAMES
            or path.name.startswith(".")
        ):
            found[path.name] = path
    return found


class ModelFolder:
    """A complete HF model folder in the making, by one process or several."""

    def __init__(self, path: Path, plan: str, share: Share) -> None:
        """Begin `path`, or go on with it if it was begun with the same plan (a hash).

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
        """The record of a folder that was already made by the same plan, else None."""
        record = path / RECORD
        if not record.exists():
            return None
        value = read_json(record)
        return value if value.get("plan") == plan else None

    def has(self, shard: Shard) -> bool:
        """True if an earlier start completed this shard."""
        return (self.partial / shard.filename).exists()

    def finish(
        self,
        shards: Sequence[Shard],
        models: Sequence[Path],
        dtype: str,
        record: dict[str, Any],
        rows: list[dict[str, Any]],
    ) -> dict[str, Any]:
        """Add index, config, tokenizer and record, then give the folder its name.

        With several processes, the first does it when all have handed in their rows, and the
        others wait for it.

        Args:
            models: folders to take companion files from; an earlier one's file wins.
            dtype: for config.json, e.g. "bfloat16".
            record: content of extrapolation.json but for `tensors`.
            rows: this process's part of `tensors`.

        Returns:
            The content of extrapolation.json.
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
        for model in reversed(models):
            for relative, source in companion_files(model).items():
                target = self.partial / relative
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target)
        _set_dtype(self.partial / "config.json", dtype)
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


def _set_dtype(path: Path, dtype: str) -> None:
    """Make config.json name the dtype that the weights now have, wherever it named one."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise PipelineError(f"{path}: not a JSON object; copy the model's config.json again")
    config.pop("torch_dtype", None)  # the older name of the same field
    config["dtype"] = dtype
    for section in (config, config.get("text_config")):  # what is written is plain
        if isinstance(section, dict):
            section.pop("quantization_config", None)
    for nested in config.values():
        if isinstance(nested, dict) and ("dtype" in nested or "torch_dtype" in nested):
            nested.pop("torch_dtype", None)
            nested["dtype"] = dtype
    write_json(path, config)
