"""One streaming pass for every method: theta* = theta_0 + sum_i c_i delta_i.

All targets of all methods come out of one read. Arithmetic is fp32, from deltas, with one rounding
to the output dtype (see `kernels`); a checkpoint that a method does not use has the coefficient 0
and is left out of its sum, so the bits are those of the method alone; one that none uses is not
read. Where c depends on a tensor's Gram matrix, tensors are read twice, the second time from the
page cache, and inner products are taken in the first alone. Source of the two-point rule: arXiv
2601.04537.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.errors import PipelineError
from pipeline.progress import bar
from pipeline.trajectory import stream
from pipeline.trajectory.entries import Entry
from pipeline.trajectory.gram import Gram
from pipeline.trajectory.kernels import combine, combine_gated, step_weights
from pipeline.trajectory.measure import measure_grams
from pipeline.trajectory.output import Output
from pipeline.trajectory.plan import Plan, union
from pipeline.trajectory.reader import Reader, Values
from pipeline.trajectory.shards import Files
from pipeline.trajectory.share import Share
from pipeline.trajectory.stream import Piece, counted, pieces, run
from pipeline.trajectory.writer import check_space

GROUP_BYTES = 1 << 30
ALONE = Share()
Records = dict[int, dict[str, Any]]  # by target


def write(plan: Plan, folders: Mapping[int, Path], share: Share = ALONE) -> Records:
    """`write_all` of one plan."""
    return write_all([(plan, folders)], share)[0]


def write_all(
    jobs: Sequence[tuple[Plan, Mapping[int, Path]]], share: Share = ALONE
) -> list[Records]:
    """Write one complete HF model folder for each target of each plan, all from one read.

    Args:
        jobs: plans with the same first and last checkpoint, and a folder for each of their targets.
            Finished folders of the same plan are left as they are; one that was begun resumes
            after its last whole shard.
        share: which of several processes this is, if all of them make this same call.

    Returns:
        For each plan and target the content of its extrapolation.json.

    Raises:
        PipelineError: NaN or infinity in an input or a result; disk full.
    """
    outputs = [
        [Output(plan, target, folders[target], share) for target in plan.targets]
        for plan, folders in jobs
    ]
    todo = [output for several in outputs for output in several if not output.finished]
    for output in todo:
        output.begin()
    if todo:
        work = _Combination(todo)
        grams = work.run()
        for output in todo:
            measured = grams if output.plan.rule.needs_gram else {}
            output.finish({n: g.of(work.places[output]) for n, g in measured.items()})
    return [{output.target: output.record for output in several} for several in outputs]


@dataclass(frozen=True)
class _Sum:
    """Targets of one tensor that one call of the kernel computes: alike in dtype and gate.

    Attributes:
        rows: c of each output over the checkpoints that the tensor's sums use, fp32 [T, K].
        gated: True if each scalar's step is scaled by its R².
    """

    outputs: list[Output]
    rows: NDArray[np.float32]
    gated: bool
    dtype: torch.dtype


@dataclass(frozen=True)
class _Tensor:
    """What is to be done with one tensor.

    Attributes:
        places: of the checkpoints that one of the sums uses, theta_0's first.
        copied: outputs that get the last checkpoint's bytes.
        last: those that get its values in their own dtype.
    """

    entry: Entry
    places: list[int]
    sums: list[_Sum]
    copied: list[Output]
    last: list[Output]


class _Combination:
    """The work of one call: some tensors after the other, each with all cores.

    Attributes:
        places: of the checkpoints that an output's method uses, among all that are read.
    """

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.outputs = outputs
        self.checkpoints = union([output.plan for output in outputs])
        self.places = {o: o.plan.places(self.checkpoints) for o in outputs}
        self.gate = step_weights([checkpoint.step for checkpoint in self.checkpoints])
        self.grams: dict[str, Gram] = {}

    def run(self) -> dict[str, Gram]:
        """Write every missing shard; returns the Gram matrices of this process's tensors."""
        check_space(self.outputs[0].folder.partial, sum(o.missing_bytes for o in self.outputs))
        ordered = [e for shard in self.outputs[0].plan.shards for e in shard.entries]
        mine = {e.name for e in ordered if any(o.owns(e.name) for o in self.outputs)}
        total = sum(e.numel for e in ordered if e.name in mine)
        with Files() as files, bar(total, "extrapolate", "weights", scale=True) as progress:
            for group in self._groups(ordered, mine):
                for output in self.outputs:
                    output.open(entry.name for entry in group)
                self._run_group([e for e in group if e.name in mine], files, progress)
        return self.grams

    def _groups(self, entries: Sequence[Entry], mine: set[str]) -> Iterator[list[Entry]]:
        """Tensors whose inputs fit the page cache together: some methods read them twice."""
        group: list[Entry] = []
        size = 0
        for entry in entries:
            width = sum(c.entries[entry.name].dtype.itemsize for c in self.checkpoints)
            held = entry.numel * width if entry.name in mine else 0
            if group and size + held > GROUP_BYTES:
                yield group
                group, size = [], 0
            group.append(entry)
            size += held
        if group:
            yield group

    def _run_group(self, entries: Sequence[Entry], files: Files, progress: tqdm[None]) -> None:
        measuring = [output.plan for output in self.outputs if output.plan.rule.needs_gram]
        asked = [e for e in entries if any(plan.predicts(e.name) for plan in measuring)]
        if asked:
            self.grams |= measure_grams(self.checkpoints, asked, files)
        tensors = {e.name: self._tensor(e) for e in entries}

        def make_worker() -> Callable[[Piece], None]:
            return counted(_Worker(self, files, tensors), progress, 1)

        run(list(pieces(entries)), make_worker)

    def _tensor(self, entry: Entry) -> _Tensor:
        """Sort the outputs of a tensor by what is to be done for them."""
        name, gram = entry.name, self.grams.get(entry.name)
        copied: list[Output] = []
        last: list[Output] = []
        writing = [output for output in self.outputs if output.writes(name)]
        alike: dict[Any, list[Output]] = {}
        for output in writing if entry.numel else ():
            if name in output.plan.copied:
                copied.append(output)
            elif output.plan.rule.method.copies_last:
                last.append(output)
            else:
                key = output.dtypes[name], output.plan.rule.by_scalar
                alike.setdefault(key, []).append(output)
        rows = {o: self._row(o, name, gram) for outputs in alike.values() for o in outputs}
        used = np.any([row != 0 for row in rows.values()], axis=0) | any(g for _, g in alike)
        places = [0, *(k for k in range(1, len(self.checkpoints)) if used[k])] if rows else []
        sums = [
            _Sum(outputs, np.stack([rows[o] for o in outputs])[:, places], gated, dtype)
            for (dtype, gated), outputs in alike.items()
        ]
        return _Tensor(self.checkpoints[-1].entries[name], places, sums, copied, last)

    def _row(self, output: Output, name: str, gram: Gram | None) -> NDArray[np.float32]:
        """c of an output, fp32 [K], over all checkpoints that are read."""
        places = self.places[output]
        known = gram.of(places).matrix if gram is not None else None
        row = np.zeros(len(self.checkpoints), np.float32)
        row[places] = output.plan.coefficients(name, known, output.target)
        return row


class _Worker:
    """One thread's buffers; called with one piece after the other."""

    def __init__(self, work: _Combination, files: Files, tensors: Mapping[str, _Tensor]) -> None:
        self.work, self.files, self.tensors = work, files, tensors
        self.reader = Reader(work.checkpoints, files)
        self.out = np.empty(len(work.outputs) * stream.PIECE, np.float32)
        self.raw = torch.empty(stream.PIECE * 8, dtype=torch.uint8)

    def __call__(self, piece: Piece) -> None:
        tensor = self.tensors[piece.name]
        if tensor.sums:
            values = self.reader.read(piece, tensor.places)
            for each in tensor.sums:
                self._combine(piece, each, values)
        if tensor.copied and tensor.entry.plain:
            data = self.raw[: len(piece) * tensor.entry.dtype.itemsize]
            self.files.read(tensor.entry, piece.start, piece.stop, data)
            for output in tensor.copied:
                output.put(piece, data)
        # what is not stored as such, the base plus a shift or parts, is loaded as values
        valued = tensor.last if tensor.entry.plain else [*tensor.last, *tensor.copied]
        if valued:
            last = torch.from_numpy(self.out[: len(piece)])
            self.files.load(tensor.entry, piece.start, piece.stop, last)
            for output in valued:
                self._put(piece, output, last)

    def _combine(self, piece: Piece, each: _Sum, values: Values) -> None:
        # of bf16 the kernel writes the bits
        flat: NDArray[Any] = self.out.view(np.uint16) if each.dtype == torch.bfloat16 else self.out
        out = flat[: len(each.rows) * len(piece)].reshape(len(each.rows), len(piece))
        if each.gated:
            gate = self.work.gate
            finite = combine_gated(values.array, values.movements, each.rows, gate, out)
        else:
            finite = combine(values.array, values.movements, each.rows, out)
        if not finite:
            rows = [torch.from_numpy(row) for row in out]
            if each.dtype == torch.bfloat16:
                rows = [row.view(torch.bfloat16) for row in rows]
            pairs = zip(each.outputs, rows, strict=True)
            self._refuse(piece, [output for output, row in pairs if not _finite(row)])
        for output, row in zip(each.outputs, out, strict=True):
            if each.dtype in (torch.bfloat16, torch.float32):
                output.put(piece, row)
            else:
                self._put(piece, output, torch.from_numpy(row))

    def _put(self, piece: Piece, output: Output, values: torch.Tensor) -> None:
        """Write values, rounded to the output's dtype where they are fp32 yet."""
        dtype = output.dtypes[piece.name]
        if values.dtype != dtype:
            values = values.to(dtype)
            if not _finite(values):
                self._refuse(piece, [output])
        output.put(piece, values)

    def _refuse(self, piece: Piece, outputs: Sequence[Output]) -> NoReturn:
        self.reader.blame(piece)
        names = ", ".join(f"step {o.target} of {o.plan.rule.name}" for o in outputs)
        raise PipelineError(
            f"tensor {piece.name}: {names} overflows {outputs[0].plan.dtype}; choose a nearer "
            "target or a wider weight_extrap.dtype"
        )


def _finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())
