"""Sample to a JSONL file that grows as responses finish and that a killed run resumes with.

A row is known by (model fingerprint, task, split, problem, prompt, sample, sampling hash). Rows
that are in the file are not made again, so running twice adds nothing, and a larger `n` or more
problems adds what is missing. Other sampling settings have a file of their own (`own_file`).
Grading is a separate pass over the file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.artifacts import append_jsonl, hash_json, iter_jsonl, repair_jsonl, write_jsonl
from pipeline.inference.interface import Engine, Generation, Sampling, check_finite, sampling_hash
from pipeline.progress import bar

BLOCK_ROWS = 4096  # rows written together at most
BLOCK_SECONDS = 2.0  # and the longest that a finished row waits for its block

RowKey = tuple[str, str, str, str, str, int, str]


@dataclass(frozen=True)
class PromptItem:
    """An encoded problem.

    Attributes:
        task, split, problem_id: as in the rows.
        token_ids: the prompt's tokens.
    """

    task: str
    split: str
    problem_id: str
    token_ids: tuple[int, ...]

    @cached_property
    def prompt(self) -> str:
        """Identity of the prompt (12 hex digits), as in the rows."""
        return hash_json(self.token_ids)[:12]


def row_key(row: Mapping[str, Any]) -> RowKey:
    """What makes a row of generations.jsonl the only one of its kind."""
    return (
        row["fingerprint"],
        row["task"],
        row["split"],
        row["problem_id"],
        row["prompt"],
        row["sample"],
        row["sampling"],
    )


class Once:
    """Which rows came already, so that a copy of one is left out.

    A file holds a response twice where two files were put together, or by a second writer.

    Attributes:
        samples: by all of the key but the sample, the samples seen and a hash of their texts.
        copies, conflicts: rows left out, and those among them whose text is another.
    """

    def __init__(self) -> None:
        self.samples: dict[tuple[str, ...], dict[int, int]] = {}
        self.copies = self.conflicts = 0

    def first(self, row: Mapping[str, Any]) -> bool:
        """Whether this is the first row of its model, problem and sample."""
        *problem, sample, sampling = row_key(row)
        seen = self.samples.setdefault((*map(str, problem), sampling), {})
        text = hash(row["text"])
        if sample not in seen:
            seen[sample] = text
            return True
        self.copies += 1
        self.conflicts += seen[sample] != text
        return False

    def report(self, path: Path) -> None:
        """Say what was left out, if anything was."""
        if self.copies:
            other = f", {self.conflicts} of them with another text" if self.conflicts else ""
            logging.getLogger(__name__).warning(
                "%s: %d rows are there a second time (same model, problem and sample)%s; "
                "the first of each is used",
                path,
                self.copies,
                other,
            )


def read_keys(path: Path) -> set[RowKey]:
    """Keys of all whole rows of a generations file."""
    return {row_key(row) for row in iter_jsonl(path)}


def own_file(path: Path, sampling: Sampling) -> None:
    """Leave in `path` rows of this sampling set-up only, so that none are mixed.

    Rows of another one stay beside it, as generations-HASH.jsonl, and come back with its settings;
    each by its own, since files may have been put together. A kill leaves every row in one of the
    files at least, and the next call ends what it began.
    """
    identity = sampling_hash(sampling)
    repair_jsonl(path)
    for other in sorted({row["sampling"] for row in iter_jsonl(path)} - {identity}):
        _move_rows(path, _aside(path, other), other)
    _move_rows(_aside(path, identity), path, identity)


def _aside(path: Path, identity: str) -> Path:
    return path.with_name(f"{path.stem}-{identity}{path.suffix}")


def _move_rows(source: Path, target: Path, identity: str) -> None:
    """Move the whole rows of one sampling set-up to the end of another file, which may have them
    already: a row that is there to the letter is not appended again."""
    if not source.exists():
        return
    alone = all(row["sampling"] == identity for row in iter_jsonl(source))
    if alone and not target.exists():
        source.rename(target)
        return
    repair_jsonl(target)
    there = {hash_json(row) for row in iter_jsonl(target)}
    mine = [row for row in iter_jsonl(source) if row["sampling"] == identity]
    append_jsonl(target, (row for row in mine if hash_json(row) not in there))
    if alone:
        source.unlink()
    else:
        write_jsonl(source, (row for row in iter_jsonl(source) if row["sampling"] != identity))


def random_key(item: PromptItem) -> int:
    """The number that a problem's draws depend on: the same for every model (64 bits)."""
    return int(hash_json([item.task, item.split, item.problem_id])[:16], 16)


class _Writer:
    """Turns generations into rows and appends them in blocks."""

    def __init__(
        self, path: Path, common: Mapping[str, Any], total: int, label: str, keep_tokens: bool
    ) -> None:
        self.path = path
        self.common = dict(common)
        self.keep_tokens = keep_tokens
        self.rows: list[dict[str, Any]] = []
        self.tokens = 0
        self.written = 0
        self.started = self.flushed = time.monotonic()
        self.bar = bar(total, label, "row")

    def add(self, item: PromptItem, made: Generation) -> None:
        check_finite(self.common["model"], [made.logprob])
        self.rows.append(
            {
                "task": item.task,
                "split": item.split,
                "problem_id": item.problem_id,
                "sample": made.sample,
                **self.common,
                "prompt": item.prompt,
                "prompt_tokens": len(item.token_ids),
                "tokens": len(made.token_ids),
                "text": made.text,
                "finish_reason": made.finish_reason,
                "logprob": round(made.logprob, 4),
                **({"token_ids": list(made.token_ids)} if self.keep_tokens else {}),
            }
        )
        self.tokens += len(made.token_ids)
        if len(self.rows) >= BLOCK_ROWS or time.monotonic() - self.flushed > BLOCK_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            append_jsonl(self.path, self.rows)
        now = time.monotonic()
        rate = self.tokens / max(now - self.started, 1e-9)
        self.bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
        self.bar.update(len(self.rows))
        self.written += len(self.rows)
        self.rows.clear()
        self.flushed = now


def missing_samples(
    items: Sequence[PromptItem], sampling: Sampling, fingerprint: str, present: Collection[RowKey]
) -> list[list[int]]:
    """For each item the sample numbers of this model that are not among `present`."""
    identity = sampling_hash(sampling)

    def missing(item: PromptItem, sample: int) -> bool:
        problem = (item.task, item.split, item.problem_id, item.prompt)
        return (fingerprint, *problem, sample, identity) not in present

    return [[n for n in range(sampling.n) if missing(item, n)] for item in items]


def sample_to_jsonl(
    engine: Engine,
    items: Sequence[PromptItem],
    sampling: Sampling,
    path: Path,
    *,
    model: str,
    kind: str,
    fingerprint: str,
    extra: Mapping[str, Any] | None = None,
    done: Iterable[RowKey] | None = None,
    keep_tokens: bool = False,
) -> int:
    """Append the rows of `items` that `path` does not hold yet.

    Args:
        engine: with the model in place.
        items: problems, each (task, split, problem_id) once.
        sampling: how to draw, `sampling.n` rows a problem.
        path: generations.jsonl; a torn last line is cut off.
        model, kind: e.g. "rl-600", "rl"; into each row.
        fingerprint: hash of what the model is (its files; for a mixture both and α).
        extra: further fields of each row, e.g. {"alpha": 1.5} or {"step": 600}.
        done: keys in `path`, if the caller has them already (`read_keys`); a file that many
            models share is then not read again for each.
        keep_tokens: put the response's `token_ids` into the row: text does not always encode
            back to the tokens that were drawn.

    Returns:
        Number of rows added.
    """
    repair_jsonl(path)
    present = read_keys(path) if done is None else set(done)
    missing = missing_samples(items, sampling, fingerprint, present)
    todo = [index for index, samples in enumerate(missing) if samples]
    if not todo:
        return 0
    common = {
        "model": model,
        "kind": kind,
        "fingerprint": fingerprint,
        "sampling": sampling_hash(sampling),
        "seed": sampling.seed,
        **(extra or {}),
    }
    # equal lengths side by side: less padding, and the slowest prompts do not start last
    todo.sort(key=lambda index: -len(items[index].token_ids))
    total = sum(map(len, missing))
    place = f"T {sampling.temperature:g}" if sampling.temperature else "greedy"
    writer = _Writer(path, common, total, f"sample {model}, {place}", keep_tokens)
    with writer.bar:
        made = engine.generate(
            [items[i].token_ids for i in todo],
            sampling,
            keys=[random_key(items[i]) for i in todo],
            samples=[missing[i] for i in todo],
        )
        for generation in made:
            writer.add(items[todo[generation.prompt_index]], generation)
        writer.flush()
    return writer.written
