"""One streaming pass for every linear method: theta* = theta_0 + sum_i c_i delta_i.

All targets come out of one read. Arithmetic is fp32, from deltas, with one rounding to the output
dtype (see `kernels`). Methods whose c depends on a tensor's Gram matrix read tensors twice, the
second time from the page cache. Source of the two-point rule: arXiv 2601.04537.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.progress import bar
from pipeline.trajectory import stream
from pipeline.trajectory.checkpoint import Checkpoint
from pipeline.trajectory.folder import ModelFolder
from pipeline.trajectory.gram import Gram, describe
from pipeline.trajectory.kernels import combine, step_weights
from pipeline.trajectory.measure import GramTable, measure_grams, measure_piece
from pipeline.trajectory.plan import Plan, make_plan
from pipeline.trajectory.reader import Reader
from pipeline.trajectory.shards import Entry, Files
from pipeline.trajectory.share import Share
from pipeline.trajectory.sources import Trajectory
from pipeline.trajectory.stream import Piece, counted, pieces, run
from pipeline.trajectory.writer import ShardFile, check_space

GROUP_BYTES = 1 << 30
ALONE = Share()


def extrapolate(
    trajectory: Trajectory,
    method: str,
    first: int,
    last: int,
    targets: Sequence[int],
    out: Mapping[int, Path],
    hold: Sequence[str] = (),
    dtype: str = "bfloat16",
    options: Mapping[str, Any] | None = None,
    share: Share = ALONE,
) -> dict[int, dict[str, Any]]:
    """Write one complete HF model folder for each target step.

    Args:
        trajectory: the checkpoints; `first` and `last` are steps of it.
        method: a name in `coefficients.METHODS`.
        targets: steps to predict.
        out: folder for each target. Finished ones of the same plan are left as they are; one that
            was begun resumes after its last whole shard.
        hold: globs of tensor names copied bit by bit (own dtype) from `last`.
        dtype: "bfloat16", "float16", "float32", or "same" for each tensor's own.
        options: the method's own, and for every method `damping` and `alpha_by_tensor`.
        share: which of several processes this is, if all of them make this same call.

    Returns:
        For each target the content of its extrapolation.json.

    Raises:
        PipelineError: bad step, method, option or dtype; NaN or infinity in an input; disk full.
    """
    plan = make_plan(trajectory, method, first, last, targets, hold, dtype, options or {})
    records = {t: plan.record(t) for t in targets}
    results = {}
    folders = {}
    for t in targets:
        finished = ModelFolder.finished(out[t], records[t]["plan"])
        if finished is None:
            folders[t] = ModelFolder(out[t], records[t]["plan"], share)
        else:
            results[t] = finished
    if folders:
        grams = _Combination(plan, folders, share).run()
        named = trajectory.dtype if dtype == "same" else dtype
        for t, folder in folders.items():
            shared, rows = _outcome(plan, grams, t)
            record = records[t] | {"coefficients": shared}
            results[t] = folder.finish(plan.shards, plan.beside, named, record, rows)
    return {t: results[t] for t in targets}


def _outcome(
    plan: Plan, grams: Mapping[str, Gram], target: int
) -> tuple[dict[str, float] | None, list[dict[str, Any]]]:
    """c by step where it is the same for every tensor, else None; and a row for each tensor."""
    alike = not plan.rule.needs_gram and not plan.alpha_by_tensor
    shared = None
    if alike:
        c = plan.coefficients("", None, target).tolist()
        shared = dict(zip(map(str, plan.steps), c, strict=True))
    rows = []
    for name, gram in grams.items():
        own = plan.coefficients(name, gram.matrix, target).tolist()
        row = {"name": name} if alike else {"name": name, "coefficients": own}
        rows.append({**row, **describe(plan.steps, gram)})
    return shared, rows


class _Combination:
    """The work of one call: shard by shard, each with all cores."""

    def __init__(self, plan: Plan, folders: Mapping[int, ModelFolder], share: Share) -> None:
        self.plan = plan
        self.share = share
        self.folders = folders
        self.grams: dict[str, Gram] = {}
        self.dtypes = {e.name: e.dtype for shard in plan.shards for e in shard.entries}
        self.weights = step_weights(plan.steps) if plan.by_scalar else np.empty(0, np.float32)

    def run(self) -> dict[str, Gram]:
        """Write every missing shard; returns the Gram matrices of this process's tensors."""
        plan = self.plan
        lacking = {
            shard.filename: [t for t, folder in self.folders.items() if not folder.has(shard)]
            for shard in plan.shards
        }
        needed = sum(shard.nbytes * len(lacking[shard.filename]) for shard in plan.shards)
        check_space(next(iter(self.folders.values())).partial, needed)
        total = sum(e.numel for shard in plan.shards for e in self.share.own(shard.entries))
        with Files() as files, bar(total, "extrapolate", "weights", scale=True) as progress:
            for shard in plan.shards:
                targets = lacking[shard.filename]
                outputs = {
                    t: ShardFile(self.folders[t].partial, shard, self.share) for t in targets
                }
                for group in self._groups(self.share.own(shard.entries)):
                    self._run_group(group, outputs, files, progress)
        return self.grams

    def _groups(self, entries: Sequence[Entry]) -> Iterator[list[Entry]]:
        """Tensors whose inputs fit the page cache together: some methods read them twice."""
        group: list[Entry] = []
        size = 0
        for entry in entries:
            held = entry.numel * sum(c.entries[entry.name].dtype.itemsize for c in self.checkpoints)
            if group and size + held > GROUP_BYTES:
                yield group
                group, size = [], 0
            group.append(entry)
            size += held
        if group:
            yield group

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return self.plan.checkpoints

    def _run_group(
        self,
        entries: Sequence[Entry],
        outputs: Mapping[int, ShardFile],
        files: Files,
        progress: tqdm[None],
    ) -> None:
        floats = [e for e in entries if e.numel and self.plan.moves(e.name)]
        if self.plan.rule.needs_gram or not outputs:
            self.grams |= measure_grams(self.checkpoints, floats, files)
        if not outputs:
            progress.update(sum(e.numel for e in entries))
            return
        table = GramTable()
        rows = {e.name: self._coefficients(e.name, list(outputs)) for e in floats}

        def make_worker() -> Callable[[Piece], None]:
            return counted(_Worker(self, files, outputs, rows, table), progress, 1)

        run(list(pieces(entries)), make_worker)
        self.grams |= table.settle()

    def _coefficients(self, name: str, targets: Sequence[int]) -> NDArray[np.float32]:
        """c of each target, fp32 [T, K]."""
        gram = self.grams[name].matrix if self.plan.rule.needs_gram else None
        rows = [self.plan.coefficients(name, gram, t) for t in targets]
        return np.stack(rows).astype(np.float32)


class _Worker:
    """One thread's buffers; called with one piece after the other."""

    def __init__(
        self,
        work: _Combination,
        files: Files,
        outputs: Mapping[int, ShardFile],
        rows: Mapping[str, NDArray[np.float32]],
        table: GramTable,
    ) -> None:
        self.plan, self.dtypes, self.weights = work.plan, work.dtypes, work.weights
        self.files, self.outputs, self.rows, self.table = files, outputs, rows, table
        self.reader = Reader(work.checkpoints, files)
        self.out = torch.empty(len(outputs) * stream.PIECE)
        self.raw = torch.empty(stream.PIECE * 8, dtype=torch.uint8)

    def __call__(self, piece: Piece) -> None:
        entry = self.plan.last.entries[piece.name]
        copied = piece.name in self.plan.copied
        unread = copied or self.plan.rule.copies_last  # no kernel sees it
        if unread and self.plan.moves(piece.name) and not self.plan.rule.needs_gram:
            measure_piece(piece, self.reader, self.table)
        if copied:
            self._copy(piece, entry)
        elif self.plan.rule.copies_last:
            self._copy_last(piece, entry)
        else:
            self._combine(piece)

    def _copy(self, piece: Piece, entry: Entry) -> None:
        """The last checkpoint's bytes, in their own dtype."""
        data = self.raw[: len(piece) * entry.dtype.itemsize]
        if entry.plain:
            self.files.read(entry, piece.start, piece.stop, data)
            self._write(piece, [data] * len(self.outputs))
        else:  # not stored as such: the base plus a shift, or parts
            self._copy_last(piece, entry)

    def _copy_last(self, piece: Piece, entry: Entry) -> None:
        """The last checkpoint's values, in the output's dtype."""
        values = self.out[: len(piece)]
        self.files.load(entry, piece.start, piece.stop, values, self.raw)
        self._write(piece, [self._rounded(piece, values)] * len(self.outputs))

    def _combine(self, piece: Piece) -> None:
        values, rows = self.reader.read(piece), self.rows[piece.name]
        out = self.out[: len(rows) * len(piece)].view(len(rows), -1)
        if self.dtypes[piece.name] == torch.bfloat16:  # the kernel rounds
            out = self.out.view(torch.bfloat16)[: out.numel()].view(len(rows), -1)
            target = out.view(torch.uint16).numpy()
        else:
            target = out.numpy()
        known = self.plan.rule.needs_gram  # measured before c could be told
        gram = Gram.zero(0 if known else len(values.array))
        gram.base_squared, finite = combine(
            values.array, values.movements, rows, self.weights, target, gram.matrix
        )
        if not known:
            self.table.add(piece, gram, self.reader)
        if not finite:
            self._refuse(piece)
        self._write(piece, [self._rounded(piece, row) for row in out])

    def _rounded(self, piece: Piece, values: torch.Tensor) -> torch.Tensor:
        dtype = self.dtypes[piece.name]
        if values.dtype == dtype:
            return values
        rounded = values.to(dtype)
        if not bool(rounded.isfinite().all()):
            self._refuse(piece)
        return rounded

    def _refuse(self, piece: Piece) -> NoReturn:
        self.reader.blame(piece)
        step = ", ".join(map(str, self.outputs))
        raise PipelineError(
            f"tensor {piece.name}: step {step} overflows {self.plan.dtype}; choose a nearer target "
            "or a wider weight_extrap.dtype"
        )

    def _write(self, piece: Piece, data: Sequence[torch.Tensor]) -> None:
        for output, values in zip(self.outputs.values(), data, strict=True):
            output.write(piece.name, piece.start, values)
