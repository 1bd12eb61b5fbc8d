"""One target of a plan while it is written: its folder, and the shard files that are open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from pipeline.trajectory.folder import ModelFolder
from pipeline.trajectory.gram import Gram, describe
from pipeline.trajectory.plan import Plan
from pipeline.trajectory.share import Share
from pipeline.trajectory.stream import Piece
from pipeline.trajectory.writer import ShardFile


class Output:
    """A model folder that grows tensor by tensor.

    Attributes:
        record: what extrapolation.json holds; all of it once `finished`.
        dtypes: of its tensors.
    """

    def __init__(self, plan: Plan, target: int, path: Path, share: Share) -> None:
        self.plan, self.target = plan, target
        self.record: dict[str, Any] = plan.record(target)
        self._path, self._share = path, share
        done = ModelFolder.finished(path, self.record["plan"])
        self.finished = done is not None
        self.record = done or self.record

    def begin(self) -> None:
        """Make the folder, or find what of it is there; with several processes, wait for all."""
        self.folder = ModelFolder(self._path, self.record["plan"], self._share)
        shards = self.plan.shards
        self.dtypes: dict[str, torch.dtype] = {e.name: e.dtype for s in shards for e in s.entries}
        self._owned = {e.name for shard in shards for e in self._share.own(shard.entries)}
        missing = [shard for shard in shards if not self.folder.has(shard)]
        self.missing_bytes = sum(shard.nbytes for shard in missing)
        self._shards = {e.name: shard for shard in missing for e in shard.entries}
        self._files: dict[str, ShardFile] = {}

    def owns(self, name: str) -> bool:
        """True if this process is the one that computes the tensor."""
        return name in self._owned

    def writes(self, name: str) -> bool:
        """True if this process is the one, and the tensor's shard is not there yet."""
        return name in self._owned and name in self._shards

    def open(self, names: Iterable[str]) -> None:
        """Begin the shards that these tensors are in, even those of which others own them all."""
        for name in names:
            shard = self._shards.get(name)
            if shard is not None and shard.filename not in self._files:
                self._files[shard.filename] = ShardFile(self.folder.partial, shard, self._share)

    def put(self, piece: Piece, data: torch.Tensor | NDArray[Any]) -> None:
        """Write a piece of a tensor, in its own dtype (bf16 may be uint16)."""
        self._files[self._shards[piece.name].filename].write(piece.name, piece.start, data)

    def finish(self, grams: Mapping[str, Gram]) -> None:
        """Add what belongs beside the weights, and give the folder its name.

        Args:
            grams: of the tensors that this process has measured, over the plan's checkpoints;
                needed where the rule needs them.
        """
        plan, steps = self.plan, self.plan.steps
        shared = None
        if not plan.rule.by_tensor:
            c = plan.coefficients("", None, self.target).tolist()
            shared = dict(zip(map(str, steps), c, strict=True))
        rows = []
        for name in plan.last.entries if plan.rule.by_tensor else ():
            if self.owns(name) and plan.predicts(name):
                gram = grams[name] if plan.rule.needs_gram else None
                c = plan.coefficients(name, None if gram is None else gram.matrix, self.target)
                figures = {} if gram is None else describe(steps, gram)
                rows.append({"name": name, "coefficients": c.tolist(), **figures})
        named = plan.trajectory.dtype if plan.dtype == "same" else plan.dtype
        record = self.record | {"coefficients": shared}
        self.record = self.folder.finish(plan.shards, plan.beside, named, record, rows)
        self.finished = True
