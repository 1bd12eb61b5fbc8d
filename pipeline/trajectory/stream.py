"""Run one function over all pieces of all tensors, on every core, with bounded memory.

Each worker thread takes a piece from reading to writing; `pread`, `pwrite` and the compiled kernels
release the GIL. `Files` asks the operating system to read ahead of them, and it writes behind them,
so no queues are needed in between.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tqdm import tqdm

from pipeline.trajectory.entries import Entry
from pipeline.trajectory.shards import Files

# Elements: 1 MB in fp32. Smaller pieces stay in a core's L2 cache, but operations then are so short
# that threads wait for each other's GIL (64 K elements: twice the time on two cores).
PIECE = 1 << 18


@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of the tensor `name`."""

    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def pieces(entries: Iterable[Entry], size: int | None = None) -> Iterator[Piece]:
    """Cut tensors into pieces of at most `size` elements (default: PIECE), in the given order."""
    step = PIECE if size is None else size
    for entry in entries:
        for start in range(0, entry.numel, step):
            yield Piece(entry.name, start, min(start + step, entry.numel))


def loaded(files: Files, entry: Entry) -> Iterator[tuple[Piece, torch.Tensor]]:
    """A tensor's values as fp32, piece by piece; each overwrites the one before."""
    values = torch.empty(min(entry.numel, PIECE))
    for piece in pieces([entry]):
        part = values[: len(piece)]
        files.load(entry, piece.start, piece.stop, part)
        yield piece, part


def worker_count() -> int:
    """Threads to start: one for each core that this process may use, and one more.

    Writers of one file wait for each other and readers for the disk; the core is not idle then.
    """
    return len(os.sched_getaffinity(0)) + 1


@contextmanager
def numerics() -> Iterator[None]:
    """One torch thread an operation, since pieces run in parallel; and fp32 products in fp32.

    A trainer in the same process may have allowed bf16 inside fp32 matrix products.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def run(todo: Sequence[Piece], make_worker: Callable[[], Callable[[Piece], None]]) -> None:
    """Call a worker for every piece; returns when all are done.

    Args:
        todo: pieces, started in this order.
        make_worker: called once in each thread; allocates that thread's buffers.

    Raises:
        Whatever a worker raised first; the others stop after their piece.
    """
    source = iter(todo)
    lock = threading.Lock()
    stop = threading.Event()

    @torch.inference_mode()
    def loop() -> None:
        torch.set_num_threads(1)  # OpenMP keeps this number for each thread
        work = make_worker()
        while not stop.is_set():
            with lock:
                piece = next(source, None)
            if piece is None:
                return
            work(piece)

    with numerics(), ThreadPoolExecutor(worker_count()) as pool:
        loops = [pool.submit(loop) for _ in range(worker_count())]
        try:
            wait(loops, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for finished in loops:
        finished.result()


def counted(
    worker: Callable[[Piece], None], progress: tqdm[None], bytes_per_element: int
) -> Callable[[Piece], None]:
    """The same worker, telling the progress bar of each piece."""

    def work(piece: Piece) -> None:
        worker(piece)
        progress.update(len(piece) * bytes_per_element)  # a lost update only blurs the display

    return work
