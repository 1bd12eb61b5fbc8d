"""From rows of generations to rows of scores: grade in blocks, choose on validation, compare.

The responses' texts are only held block by block: what stays for each response is its grade and
its length, so a file of many gigabytes needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import append_jsonl, iter_jsonl, repair_jsonl
from pipeline.progress import bar
from pipeline.stages import problems
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.inference.parallel import Draw
    from pipeline.report.metrics import Tally
    from pipeline.stages.candidates import Candidate
    from pipeline.stages.problems import Sets

BLOCK = 20_000  # responses graded at a time
KEPT = ("task", "split", "problem_id", "sample", "tokens", "finish_reason", "logprob")


def copy_logit_rows(context: Context, draw: Draw) -> None:
    """Append the rows of logit_extrap, drawn as here, that evaluate/generations.jsonl lacks."""
    from pipeline.inference.engine import sampling_hash
    from pipeline.inference.run import row_key

    path = draw.path
    source = context.stage_dir("logit_extrap") / "generations.jsonl"
    repair_jsonl(path)
    have = {row_key(row) for row in iter_jsonl(path) if row["kind"] == "logit"}
    identity = sampling_hash(draw.sampling)
    rows = (row for row in iter_jsonl(source) if row["sampling"] == identity)
    new = (row for row in rows if row_key(row) not in have)
    for block in _blocks(new):
        append_jsonl(path, block)


def tally_draw(
    context: Context, draw: Draw, candidates: Sequence[Candidate], sets: Sets
) -> dict[tuple[str, str, str], Tally]:
    """Grade the responses of one draw; samples by (model, task, split).

    Args:
        candidates: the models of this evaluation; rows of others stay in the file unused.
    """
    from pipeline.report.metrics import tally

    rows, grades = [], []
    for row, grade in _graded(context, draw, candidates, sets):
        rows.append(row)
        grades.append(grade)
    return tally(rows, grades)


def score(
    context: Context,
    groups: Mapping[tuple[str, str, str], Tally],
    last_rl: str,
    start: str,
) -> dict[str, Any]:
    """The content of scores.json, without the controls.

    Args:
        groups: all samples at the evaluation's temperature (`tally_draw`).
        last_rl: the end of the real RL run.
        start: the last checkpoint that extrapolation has seen.
    """
    from pipeline.report.metrics import score_groups
    from pipeline.report.selection import choose

    config = context.config
    scores = score_groups(
        groups,
        last_rl=last_rl,
        start=start,
        pass_k=config.evaluate.pass_k,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )
    chosen = choose(scores)
    names = {choice["model"] for choice in chosen.values()}
    for row in scores:
        row["chosen"] = row["model"] in names
        row["temperature"] = config.evaluate.temperature
    return {"last_rl": last_rl, "start": start, "chosen": chosen, "rows": scores}


def _graded(
    context: Context, draw: Draw, candidates: Sequence[Candidate], sets: Sets
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(row without its text, grade) of every response of this evaluation."""
    from pipeline.tasks import grade_rows

    known: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        known.setdefault(candidate.fingerprint, []).append(candidate)
    posed = [problem for found in sets.values() for problem in found]
    options = {task.name: dict(task.options) for task, _, _ in problems.evaluation_sets(context)}
    rows = _mine(draw, iter_jsonl(draw.path), set(known), sets)
    total = len(known) * len(posed) * draw.sampling.n
    with bar(total, "grade", "response") as progress:
        for block in _blocks(rows):
            grades = grade_rows(block, posed, options=options, done=progress.update)
            for row, grade in zip(block, grades, strict=True):
                light = {key: row[key] for key in KEPT if key in row}
                for candidate in known[row["fingerprint"]]:
                    named = {"model": candidate.name, "kind": candidate.kind, **candidate.extra}
                    yield light | named, grade


def _blocks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while block := list(islice(rows, BLOCK)):
        yield block


def _mine(
    draw: Draw, rows: Iterable[dict[str, Any]], fingerprints: set[str], sets: Sets
) -> Iterator[dict[str, Any]]:
    """The rows made by these models with these sampling settings on these problems."""
    from pipeline.inference.engine import sampling_hash

    identity = sampling_hash(draw.sampling)
    wanted = {(task, split, p.id) for (task, split), found in sets.items() for p in found}
    for row in rows:
        if (
            row["fingerprint"] in fingerprints
            and row["sampling"] == identity
            and row["sample"] < draw.sampling.n
            and (row["task"], row["split"], row["problem_id"]) in wanted
        ):
            yield row
