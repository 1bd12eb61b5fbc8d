"""Sample with several engines at once: one for each GPU (or tensor-parallel group), problems dealt
out, results merged.

The work is a file, so that the same worker serves one machine and many:

    run_local(work, workers=8)                                    # one process a GPU
    srun --ntasks=16 python -m pipeline.inference.parallel WORK.json    # a rank a GPU, any nodes

Each worker takes every size-th problem, for every model, and appends to a part file of its own
beside the target; `merge_parts` moves whole rows into the target. Either may be killed at any
moment: the next start merges what is there and samples the rest.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_own, repair_jsonl, write_json
from pipeline.ending import one_line
from pipeline.errors import PipelineError
from pipeline.inference.device import claim_cores, worker_environments
from pipeline.inference.interface import Engine, Sampling, Source
from pipeline.inference.open import open_engine
from pipeline.inference.part_files import merge_parts, part_of, parts_of
from pipeline.inference.run import (
    PromptItem,
    missing_samples,
    own_file,
    read_keys,
    sample_to_jsonl,
)
from pipeline.processes import die_with_parent
from pipeline.trajectory.recipe import Recipe

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Candidate:
    """One model to sample from.

    Attributes:
        name: e.g. "base", "rl-600", "two_point-900", "logit-1.5".
        kind: base, rl, weight, logit, mixture (of the user's members), or named (a checkpoint that
            is no step of the run).
        fingerprint: hash of what its responses hang on beside the prompts and the draw.
        source: its weights; None leaves the engine's own in place, a mixture of logits (see
            `coefficients`).
        extra: what goes into its rows (step, method, alpha, members).
    """

    name: str
    kind: str
    fingerprint: str
    source: Source | None
    extra: Mapping[str, Any]


def coefficients(candidate: Candidate) -> list[float]:
    """Of the logits of a mixture's members: [1 - α, α], or as its members give them."""
    if "members" in candidate.extra:
        return [float(member["coefficient"]) for member in candidate.extra["members"]]
    alpha = float(candidate.extra["alpha"])
    return [1.0 - alpha, alpha]


@dataclass(frozen=True)
class Draw:
    """How to draw (`sampling`), and the generations file that is for it (`path`); rows in the files
    `beside` it are made already."""

    sampling: Sampling
    path: Path
    beside: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        files = {"path": str(self.path), "beside": [str(path) for path in self.beside]}
        return {"sampling": asdict(self.sampling), **files}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> Draw:
        beside = tuple(Path(path) for path in plain["beside"])
        return Draw(Sampling(**plain["sampling"]), Path(plain["path"]), beside)


@dataclass(frozen=True)
class Work:
    """All that the workers have to know.

    Attributes:
        engine: arguments of `open_engine`: `name`, `models`, and more; paths as strings.
        candidates: the models, one after the other on each engine.
        items: the problems.
        draws: how each model answers each problem.
    """

    engine: Mapping[str, Any]
    candidates: Sequence[Candidate]
    items: Sequence[PromptItem]
    draws: Sequence[Draw]

    def save(self, path: Path) -> None:
        """Write it as JSON for the workers."""
        candidates = [{**asdict(c), "source": _plain(c.source)} for c in self.candidates]
        write_json(
            path,
            {
                "engine": dict(self.engine),
                "candidates": candidates,
                "items": [asdict(item) for item in self.items],
                "draws": [draw.to_json() for draw in self.draws],
            },
        )

    @staticmethod
    def load(path: Path) -> Work:
        """Read what `save` wrote."""
        plain = read_own(path)
        return Work(
            plain["engine"],
            [Candidate(**{**c, "source": _source(c["source"])}) for c in plain["candidates"]],
            [PromptItem(**{**i, "token_ids": tuple(i["token_ids"])}) for i in plain["items"]],
            [Draw.from_json(draw) for draw in plain["draws"]],
        )


def _plain(source: Source | None) -> Any:
    if isinstance(source, Recipe):
        return source.to_plain()
    return None if source is None else str(source)


def _source(plain: Any) -> Source | None:
    if isinstance(plain, dict):
        return Recipe.from_plain(plain)
    return None if plain is None else Path(plain)


def sample_share(work: Work, rank: int, size: int) -> int:
    """Do the `rank`-th of `size` shares of the work; returns rows made.

    A share goes into part files of its own, the whole of it (`size` 1) into the targets. No engine
    is started if nothing is missing, and no weights are loaded of which nothing is.
    """
    items = list(work.items)[rank::size]
    places = [(d, d.path if size == 1 else part_of(d.path, rank, size)) for d in work.draws]
    known = {}
    for draw, part in places:
        repair_jsonl(part)
        known[part] = set().union(*map(read_keys, {draw.path, part, *draw.beside}))
    engine: Engine | None = None
    made = 0
    try:
        for candidate in work.candidates:
            todo = [
                (draw.sampling, part)
                for draw, part in places
                if any(missing_samples(items, draw.sampling, candidate.fingerprint, known[part]))
            ]
            if not todo:
                continue
            engine = engine or start(work.engine)
            if candidate.source is None:
                engine.set_coefficients(coefficients(candidate))
            else:
                engine.load_weights(candidate.source)
            for sampling, part in todo:
                made += sample_to_jsonl(
                    engine,
                    items,
                    sampling,
                    part,
                    model=candidate.name,
                    kind=candidate.kind,
                    fingerprint=candidate.fingerprint,
                    extra=candidate.extra,
                    done=known[part],
                )
    finally:
        if engine is not None:
            engine.close()
    return made


def start(engine: Mapping[str, Any]) -> Engine:
    """Start the engine of these arguments (`Work.engine`) in this process."""
    options = dict(engine)
    name, models = options.pop("name"), options.pop("models")
    if "tokenizer" in options:
        options["tokenizer"] = Path(options["tokenizer"])
    return open_engine(name, *map(Path, models), **options)


def run_local(work: Work, workers: int) -> int:
    """Do the work with `workers` processes on this machine; returns the rows added to the files.

    One worker works in this process.

    Raises:
        PipelineError: a worker failed (it has said why); what was made is kept.
    """
    for draw in work.draws:
        merge_parts(draw.path)  # of the settings that its rows have
        own_file(draw.path, draw.sampling)
    if workers == 1:
        return sample_share(work, 0, 1)
    environments = worker_environments(workers, int(work.engine.get("tensor_parallel", 1)))
    first = work.draws[0].path
    spec = first.with_name(f".{first.stem}.work.json")
    work.save(spec)
    command = [sys.executable, "-m", "pipeline.inference.parallel", str(spec)]
    children = [
        subprocess.Popen(
            [*command, "--rank", str(rank), "--size", str(workers)],
            env={**os.environ, **environment},
            preexec_fn=die_with_parent,
        )
        for rank, environment in enumerate(environments)
    ]
    try:
        codes = [child.wait() for child in children]
    finally:
        for child in children:
            child.terminate()
            child.wait()
    added = sum(merge_parts(draw.path) for draw in work.draws)
    spec.unlink()
    for rank, code in enumerate(codes):
        if code != 0:
            raise PipelineError(
                f"sampling worker {rank} of {workers} ended with code {code} (its message is "
                "above); what was made is kept: run again"
            )
    return added


def run_part(work: Work, index: int, count: int, workers: int) -> int:
    """Do the part `index` of `count` of the work, with `workers` processes on this machine; returns
    the rows added to the part's own files. What the targets or other parts have is not made again.
    """
    draws = [
        Draw(draw.sampling, part_of(draw.path, index, count), (draw.path, *parts_of(draw.path)))
        for draw in work.draws
    ]
    return run_local(replace(work, items=list(work.items)[index::count], draws=draws), workers)


def _rank_and_size(args: argparse.Namespace) -> tuple[int, int]:
    """As given, else Slurm's."""
    rank = args.rank if args.rank is not None else os.environ.get("SLURM_PROCID")
    size = args.size if args.size is not None else os.environ.get("SLURM_NTASKS")
    if rank is None or size is None:
        raise PipelineError("give --rank and --size, or start the worker with srun")
    return int(rank), int(size)


def main() -> None:
    """A worker; mistakes end in one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.inference.parallel")
    parser.add_argument("work", type=Path, help="file that Work.save wrote")
    parser.add_argument("--rank", type=int, help="default: SLURM_PROCID")
    parser.add_argument("--size", type=int, help="default: SLURM_NTASKS")
    args = parser.parse_args()
    with one_line():
        rank, size = _rank_and_size(args)
        work = Work.load(args.work)
        if args.rank is not None:  # started by run_local: share its machine, do not outlive it
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it and says a word
            claim_cores(rank, size)
        sample_share(work, rank, size)


if __name__ == "__main__":
    main()
