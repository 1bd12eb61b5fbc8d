"""From rows of generations to rows of scores: grade in blocks, choose on validation, compare.

The responses' texts are only held block by block: what stays for each response is its grade and
its length, so a file of many gigabytes needs little memory.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import append_jsonl, iter_jsonl, repair_jsonl
from pipeline.errors import PipelineError
from pipeline.evaluation import signs
from pipeline.evaluation.selection import choose, warn
from pipeline.progress import bar

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.posing import Posed
    from pipeline.evaluation.tally import Tally
    from pipeline.inference.parallel import Candidate, Draw
    from pipeline.inference.run import PromptItem
    from pipeline.subject.found import Subject
    from pipeline.tasks import Problem

BLOCK = 20_000  # responses graded at a time
KEPT = ("task", "split", "problem_id", "sample", "tokens", "finish_reason", "logprob")
SHOWN = ("model", "task", "split", "problem", "response", "correct")  # what W&B shows of a response
EACH = 8  # responses of a model that are shown: the first to so many problems
MIXED = ("logit", "mixture")  # kinds that logit_extrap samples
Rows = list[dict[str, Any]]
Place = tuple[str, str, str]  # task, split, problem id


def copy_rows(source: Path, draw: Draw) -> None:
    """Append the rows of `source` (logit_extrap's), drawn as here, that this draw's file lacks."""
    from pipeline.inference.interface import sampling_hash
    from pipeline.inference.run import Once

    path = draw.path
    repair_jsonl(path)
    here, there = Once(), Once()
    for row in iter_jsonl(path):
        if row["kind"] in MIXED:
            here.first(row)
    identity = sampling_hash(draw.sampling)
    rows = (row for row in iter_jsonl(source) if row["sampling"] == identity)
    new = (row for row in rows if there.first(row) and here.first(row))
    for block in _blocks(new):
        append_jsonl(path, block)
    there.report(source)


def tally_draw(
    draw: Draw,
    candidates: Sequence[Candidate],
    posed: Posed,
    shown: list[list[Any]] | None = None,
) -> dict[tuple[str, str, str], Tally]:
    """Grade the responses of one draw; samples by (model, task, split).

    Args:
        candidates: the models of this evaluation; rows of others stay in the file unused.
        posed: the problems; rows of other prompts stay unused likewise.
        shown: gets a few responses of each model, with the columns `SHOWN`.

    Raises:
        PipelineError: a model of which responses are missing, unless logit_extrap drew them: then
            it is left out with a word.
    """
    from pipeline.evaluation.tally import tally
    from pipeline.tasks import merge_votes
    from pipeline.tasks.canonical import canonical

    graded = _in_order(*_graded(draw, candidates, posed, shown), candidates, posed)
    merge_votes(*graded, posed.tasks)
    wanted = len(posed.items) * draw.sampling.n
    groups = tally(*_named(*graded, _complete(candidates, wanted, graded[0])))
    golds: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for problem in posed.problems:
        golds[problem.task, problem.split][problem.id] = canonical(problem.answer)
    for (_, task, split), group in groups.items():
        group.golds = golds[task, split]
    return groups


def score(
    subject: Subject,
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
    from pipeline.evaluation import collapse, label_free
    from pipeline.evaluation.metrics import score_groups

    config = subject.config
    judged = collapse.judge(groups, start)
    scores = score_groups(
        groups,
        last_rl=last_rl,
        start=start,
        pass_k=config.evaluate.pass_k,
        resamples=config.evaluate.bootstrap,
        seed=config.seed,
    )
    for row in scores:
        found = judged.get((row["model"], row["task"], row["split"]))
        row["collapsed"] = bool(found and found.reasons)
        row["collapse"] = found and asdict(found)
    chosen = choose(scores)
    names = {choice["model"] for choice in chosen.values()}
    for row in scores:
        row["chosen"] = row["model"] in names
        row["temperature"] = config.evaluate.temperature
    warn(scores, chosen, start)
    bootstrap = config.evaluate.bootstrap
    free: dict[str, dict[str, Any]] = {}  # greedy: all agree with themselves, and are sure
    if config.evaluate.temperature > 0:
        free = label_free.choices(groups, scores, chosen, resamples=bootstrap, seed=config.seed)
    result = {"last_rl": last_rl, "start": start, "chosen": chosen, "label_free": free}
    return {**result, "rows": scores}


def _graded(
    draw: Draw,
    candidates: Sequence[Candidate],
    posed: Posed,
    shown: list[list[Any]] | None = None,
) -> tuple[Rows, Rows]:
    """Every response of this evaluation without its text, its model its fingerprint; and its grade,
    with what the text shows beside it (signs.py) and the answer that it amounts to by itself.

    A model with two names is graded once.
    """
    from pipeline.tasks import grade_rows
    from pipeline.tasks.canonical import canonical

    questions = {(p.task, p.split, p.id): _question(p) for p in posed.problems}
    names = {candidate.fingerprint: candidate.name for candidate in reversed(candidates)}
    fingerprints = set(names)
    total = len(fingerprints) * len(posed.items) * draw.sampling.n
    light: Rows = []
    grades: Rows = []
    with bar(total, "grade", "response") as progress:
        for block in _blocks(_mine(draw, fingerprints, posed.items)):
            judged = grade_rows(block, posed.problems, posed.tasks, done=progress.update)
            for grade in judged:
                found = grade["prediction"]
                grade["answer"] = None if found is None else canonical(found)
            grades += judged
            if shown is not None:
                _show(shown, block, judged, names)
            light += [_light(row, questions) for row in block]
    return light, grades


def _in_order(
    rows: Rows, grades: Rows, candidates: Sequence[Candidate], posed: Posed
) -> tuple[Rows, Rows]:
    """By model, task and split as they are evaluated, then by problem and sample: the order in the
    file is that in which responses were finished, by however many processes."""
    from pipeline.evaluation.tally import number

    models = {c.fingerprint: i for i, c in reversed([*enumerate(candidates)])}
    groups = dict.fromkeys((item.task, item.split) for item in posed.items)
    places = {place: i for i, place in enumerate(groups)}

    def order(i: int) -> tuple[int, int, tuple[str, int]]:
        row = rows[i]
        return models[row["model"]], places[row["task"], row["split"]], number(row)

    ordered = sorted(range(len(rows)), key=order)
    return [rows[i] for i in ordered], [grades[i] for i in ordered]


def _light(row: Mapping[str, Any], questions: Mapping[Place, str]) -> dict[str, Any]:
    """A row without its text, and what the text shows."""
    question = questions[row["task"], row["split"], row["problem_id"]]
    return {
        **{key: row[key] for key in KEPT if key in row},
        "model": row["fingerprint"],
        "looping": signs.looping(row["text"]),
        "copied": signs.copied(row["text"], question),
    }


def _question(problem: Problem) -> str:
    """What a problem asks, system prompt and examples included."""
    if isinstance(problem.prompt, str):
        return problem.prompt
    return "\n".join(turn["content"] for turn in problem.prompt)


def _show(shown: list[list[Any]], block: Rows, judged: Rows, names: Mapping[str, str]) -> None:
    """Add the first response to `EACH` problems of each model, as far as there are fewer yet."""
    counts = Counter(row[0] for row in shown)
    for row, grade in zip(block, judged, strict=True):
        name = names[row["fingerprint"]]
        if row["sample"] == 0 and counts[name] < EACH:
            counts[name] += 1
            place = (row["task"], row["split"], row["problem_id"])
            shown.append([name, *place, row["text"], grade["correct"]])


def _blocks(rows: Iterator[dict[str, Any]]) -> Iterator[Rows]:
    while block := list(islice(rows, BLOCK)):
        yield block


def _mine(
    draw: Draw, fingerprints: set[str], items: Sequence[PromptItem]
) -> Iterator[dict[str, Any]]:
    """The rows made by these models with these sampling settings on these prompts, each once."""
    from pipeline.inference.interface import sampling_hash
    from pipeline.inference.run import Once

    identity = sampling_hash(draw.sampling)
    wanted = {(item.task, item.split, item.problem_id, item.prompt) for item in items}
    once = Once()
    for row in iter_jsonl(draw.path):
        if (
            row["fingerprint"] in fingerprints
            and row["sampling"] == identity
            and row["sample"] < draw.sampling.n
            and (row["task"], row["split"], row["problem_id"], row["prompt"]) in wanted
            and once.first(row)
        ):
            yield row
    once.report(draw.path)


def _complete(candidates: Sequence[Candidate], wanted: int, rows: Rows) -> list[Candidate]:
    """The candidates that have all responses.

    Raises:
        PipelineError: one that this stage sampled has not.
    """
    there = Counter(row["model"] for row in rows)
    complete = []
    for candidate in candidates:
        count = there[candidate.fingerprint]
        if count == wanted:
            complete.append(candidate)
            continue
        lack = f"{candidate.name} has {count} of {wanted} responses of these settings"
        if candidate.kind not in MIXED:
            raise PipelineError(f"evaluate: {lack}; run it again to sample the rest")
        logging.getLogger(__name__).warning(
            "%s and is left out; run logit_extrap again with the settings of evaluate", lack
        )
    return complete


def _named(rows: Rows, grades: Rows, candidates: list[Candidate]) -> tuple[Rows, Rows]:
    """Rows under the names of their models, once for each name."""
    names: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        names.setdefault(candidate.fingerprint, []).append(candidate)
    found = [
        (row | {"model": known.name, "kind": known.kind, **known.extra}, grade)
        for row, grade in zip(rows, grades, strict=True)
        for known in names.get(row["model"], [])
    ]
    return [row for row, _ in found], [grade for _, grade in found]
