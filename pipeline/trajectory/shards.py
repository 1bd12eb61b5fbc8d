"""Tensors as byte ranges of files, read by `pread` into buffers that are used again.

A memory map would be less code, but its pages count against the process (a cluster's memory limit
kills it) and page faults stall the arithmetic. With a tensor known as (file, offset, length),
any part of it can be read by any thread, and one reader serves every file format that keeps
tensors as plain bytes.

Format: https://huggingface.co/docs/safetensors (8 bytes header length, JSON header, data).
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.faults import name_path, naming
from pipeline.trajectory.descriptors import Descriptors
from pipeline.trajectory.entries import Entry, Extent, LowRank, overlaps, shares_base

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
WINDOW = 1 << 24  # bytes asked for ahead of the reader
SCRATCH = 1 << 21  # bytes that a thread keeps for values that are not fp32 yet
MAX_HEADER = 100_000_000  # the limit of the safetensors library


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file, from its header alone.

    Raises:
        PipelineError: missing, truncated, not safetensors, of a dtype not read; names the file.
    """
    try:
        size = path.stat().st_size
        with naming(path), open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= MAX_HEADER else b""
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; copy the missing shard here") from None
    if size < 8 or length > MAX_HEADER or len(text) < length:
        raise PipelineError(f"{path}: truncated or not safetensors ({size} bytes); copy it again")
    try:
        header = json.loads(text)
        entries = {
            name: _entry(name, spec, path, 8 + length)
            for name, spec in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{path}: damaged safetensors header ({error}); copy it again"
        ) from None
    end = max((e.extents[0].offset + e.nbytes for e in entries.values()), default=8 + length)
    if end != size:
        raise PipelineError(
            f"{path}: truncated: {size} bytes of the {end} that its header promises; copy it again"
        )
    return entries


def _entry(name: str, spec: dict[str, Any], path: Path, data: int) -> Entry:
    begin, end = spec["data_offsets"]
    shape = tuple(int(n) for n in spec["shape"])
    if spec["dtype"] not in DTYPES:  # scales, complex numbers, or several values to a byte
        stored = f"{path}: tensor {name} is stored as {spec['dtype']}"
        raise PipelineError(f"{stored}, which is not read; dequantise the model to bf16 first")
    entry = Entry(name, DTYPES[spec["dtype"]], shape, (Extent(path, data + begin, end - begin),))
    if entry.nbytes != end - begin:
        raise ValueError(f"{name} {list(shape)} does not fill its {end - begin} bytes")
    return entry


def as_bytes(values: torch.Tensor | NDArray[Any]) -> memoryview:
    """The memory of contiguous 1-d values, not copied."""
    array: Any = values if isinstance(values, np.ndarray) else values.view(torch.uint8).numpy()
    return memoryview(array).cast("B")


class Files:
    """Open files, shared by threads; see `Descriptors` for how many at once.

    A context manager. `pread` needs no file position, so threads never disturb each other.
    """

    def __init__(self) -> None:
        self._descriptors = Descriptors()
        self._ahead: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._descriptors.close()

    def _read_ahead(self, path: Path, descriptor: int, position: int) -> None:
        """Have the kernel fetch the next window while this one is worked on.

        Several threads reading in turn do not look sequential to the kernel's own heuristic.
        """
        window = position // WINDOW + 1
        if self._ahead.get(path) == window:
            return
        with self._lock:
            if self._ahead.get(path) == window:
                return
            self._ahead[path] = window
        os.posix_fadvise(descriptor, window * WINDOW, WINDOW, os.POSIX_FADV_WILLNEED)

    def read(self, entry: Entry, start: int, stop: int, out: torch.Tensor | NDArray[Any]) -> None:
        """Fill `out` (1-d, contiguous) with the bytes of elements [start, stop)."""
        size = entry.dtype.itemsize
        view = as_bytes(out)
        filled = 0
        for extent, low, high in overlaps(entry, start * size, stop * size):
            position, end = extent.offset + low, extent.offset + high
            descriptor = self._descriptors.take(extent.path)
            try:
                self._read_ahead(extent.path, descriptor, position)
                while position < end:
                    part = view[filled : filled + end - position]
                    count = os.preadv(descriptor, [part], position)
                    if count == 0:
                        raise PipelineError(f"{extent.path}: ended while reading {entry.name}")
                    position += count
                    filled += count
            except OSError as error:
                name_path(error, extent.path)
                raise
            finally:
                self._descriptors.give_back(descriptor)

    def _scratch(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes], this thread's own until its next call."""
        if nbytes > SCRATCH:
            return torch.empty(nbytes, dtype=torch.uint8)
        if not hasattr(self._local, "raw"):
            self._local.raw = torch.empty(SCRATCH, dtype=torch.uint8)
        kept: torch.Tensor = self._local.raw
        return kept[:nbytes]

    def load(self, entry: Entry, start: int, stop: int, out: torch.Tensor) -> None:
        """Fill `out` (fp32 [stop - start]) with elements [start, stop), converted."""
        if entry.parts:
            begin = 0
            for one in entry.parts:
                low, high = max(start - begin, 0), min(stop - begin, one.numel)
                if low < high:
                    target = out[begin + low - start : begin + high - start]
                    self.load(one, low, high, target)
                begin += one.numel
            return
        if entry.dtype == torch.float32:
            self.read(entry, start, stop, out)
        else:
            part = self._scratch((stop - start) * entry.dtype.itemsize)
            self.read(entry, start, stop, part)
            out.copy_(part.view(entry.dtype))
        if entry.shift is not None:
            shift = torch.empty_like(out)
            self._load_shift(entry.shift, start, stop, shift)
            out.add_(shift)

    def load_delta(
        self,
        entry: Entry,
        reference: Entry,
        start: int,
        stop: int,
        theta_0: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """Fill `out` (fp32) with the tensor minus `reference`, whose values are `theta_0`.

        Where both are the same base plus a shift, the shifts are subtracted, not the sums: the
        movement then keeps every bit that was stored of it.
        """
        if not shares_base(entry, reference):
            self.load(entry, start, stop, out)
            out.sub_(theta_0)
            return
        if entry.shift is None:
            out.zero_()
        else:
            self._load_shift(entry.shift, start, stop, out)
        if reference.shift is not None:
            before = torch.empty_like(out)
            self._load_shift(reference.shift, start, stop, before)
            out.sub_(before)

    def _load_shift(self, shift: Entry | LowRank, start: int, stop: int, out: torch.Tensor) -> None:
        if isinstance(shift, Entry):
            self.load(shift, start, stop, out)
            return
        right = self._whole(shift.right, 0, shift.right.numel).view(shift.right.shape[0], -1)
        right = right.T if shift.transposed else right
        rank, columns = right.shape
        first, last = start // columns, -(-stop // columns)  # the rows that the elements lie in
        if shift.transposed:
            rows = shift.left.shape[1]
            parts = [(i * rows + first, i * rows + last) for i in range(rank)]
            left = torch.stack([self._whole(shift.left, *part) for part in parts], dim=1)
        else:
            left = self._whole(shift.left, first * rank, last * rank).view(-1, rank)
        values = (left @ right).mul_(shift.scale).flatten()
        out.copy_(values[start - first * columns : stop - first * columns])

    def _whole(self, entry: Entry, start: int, stop: int) -> torch.Tensor:
        values = torch.empty(stop - start)
        self.load(entry, start, stop, values)
        return values
