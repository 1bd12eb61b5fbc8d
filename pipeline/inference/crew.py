"""Several engines behind the interface of one: prompts dealt out, results gathered.

For work that goes back and forth with one set of weights after another (log-probs of fixed texts
under every checkpoint), where `inference.parallel`, whose workers write files, would start its
engines anew each time. Each engine lives in a process of its own, with its own GPUs or its share of
the cores.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from transformers import AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.inference.device import claim_cores, worker_environments
from pipeline.inference.interface import Engine, Generation, Sampling, Source
from pipeline.inference.parallel import start
from pipeline.processes import watch_parent

END = "end"  # of what a call yields
PATIENCE = 30.0  # seconds for an engine to end by itself: one that is scoring looks up afterwards


class EngineCrew:
    """Engine (see `engine.Engine`) of one model, over `size` engines.

    A response depends on its own prompt, key and sample number where that is so of one engine (HF):
    then it does not depend on how many there are.
    """

    def __init__(self, size: int, engine: Mapping[str, Any]) -> None:
        """Start them.

        Args:
            size: how many.
            engine: arguments of each (`parallel.Work.engine`).

        Raises:
            PipelineError: fewer GPUs than they need, or what `open_engine` says.
        """
        place = engine.get("tokenizer") or engine["models"][-1]
        self.tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        self._lines: list[Connection] = []
        self._processes: list[Any] = []
        context = multiprocessing.get_context("spawn")
        environments = worker_environments(size, int(engine.get("tensor_parallel", 1)))
        for rank, environment in enumerate(environments):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, size, dict(engine)))
            with _environment(environment):
                process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)
        for _ in self._answers():
            """Each says that it is there."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int] | None = None,
        samples: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Generation]:
        """See `Engine.generate`."""
        size = len(self._lines)
        keys = range(len(prompts)) if keys is None else keys
        for rank in range(size):
            mine = None if samples is None else [list(one) for one in samples[rank::size]]
            given = {"keys": list(keys[rank::size]), "samples": mine}
            self._tell(rank, "generate", ([list(p) for p in prompts[rank::size]], sampling), given)
        answers = self._answers()
        try:
            for rank, made in answers:
                yield replace(made, prompt_index=rank + size * made.prompt_index)
        finally:
            for _ in answers:
                """The caller has stopped listening: the next call must not hear the rest."""

    def score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See `Engine.score`."""
        size = len(self._lines)
        for rank in range(size):
            mine = [[list(one) for one in texts[rank::size]] for texts in (prompts, responses)]
            self._tell(rank, "score", mine, {})
        scores: list[list[float]] = [[] for _ in prompts]
        for rank, found in self._answers():
            scores[rank::size] = found
        return scores

    def load_weights(self, *sources: Source) -> None:
        """See `Engine.load_weights`."""
        self._all("load_weights", *sources)

    def set_coefficients(self, coefficients: Sequence[float]) -> None:
        """See `Engine.set_coefficients`."""
        self._all("set_coefficients", list(coefficients))

    def close(self) -> None:
        """See `Engine.close`."""
        for line in self._lines:
            line.close()  # they end when they find nobody there
        for process in self._processes:
            process.join(PATIENCE)
            process.terminate()
            process.join()
        self._lines, self._processes = [], []

    def _all(self, method: str, *arguments: Any) -> None:
        for rank in range(len(self._lines)):
            self._tell(rank, method, arguments, {})
        for _ in self._answers():
            """They return nothing."""

    def _tell(self, rank: int, method: str, arguments: Any, given: dict[str, Any]) -> None:
        try:
            self._lines[rank].send((method, arguments, given))
        except BrokenPipeError:
            raise self._gone(rank) from None

    def _gone(self, rank: int) -> PipelineError:
        process, size = self._processes[rank], len(self._lines)
        self.close()
        return PipelineError(
            f"engine {rank} of {size} ended with code {process.exitcode} (its message is above); "
            "what was made is kept: run again"
        )

    def _answers(self) -> Iterator[tuple[int, Any]]:
        """(rank, result) as they come, until each has said that it is done.

        Raises:
            PipelineError: what one of them has raised, or that it is gone; all are closed then.
        """
        busy = {line: rank for rank, line in enumerate(self._lines)}
        while busy:
            for line in wait(list(busy)):
                assert isinstance(line, Connection)
                rank = busy[line]
                try:
                    kind, value = line.recv()
                except (EOFError, ConnectionResetError):
                    raise self._gone(rank) from None
                if kind == "error":
                    self.close()
                    raise PipelineError(value)
                if kind == END:
                    del busy[line]
                else:
                    yield rank, value


def start_engines(engine: Mapping[str, Any], workers: int) -> Engine:
    """The engine of these arguments (`parallel.Work.engine`) in this process, or so many of them in
    processes of their own."""
    return start(engine) if workers == 1 else EngineCrew(workers, engine)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """For a process that is started meanwhile: it must have its devices before it starts torch."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _serve(line: Connection, rank: int, size: int, arguments: Mapping[str, Any]) -> None:
    """An engine's process: opens it, does what it is told, ends when nobody is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it and says a word
    watch_parent()  # in the middle of a batch it would not look at the line for long
    claim_cores(rank, size)
    engine: Engine | None = None
    with suppress(EOFError, BrokenPipeError):  # the parent has closed the line, or is gone
        try:
            engine = start(arguments)
            line.send((END, None))
            while True:
                method, operands, given = line.recv()
                result = getattr(engine, method)(*operands, **given)
                for value in result if method == "generate" else [result]:
                    line.send(("value", value))
                line.send((END, None))
        except PipelineError as error:
            line.send(("error", str(error)))
    if engine is not None:
        engine.close()
