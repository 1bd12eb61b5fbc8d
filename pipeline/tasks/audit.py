"""Answers that were refused although a looser reading agrees, for a person to look at.

    python -m pipeline.tasks.audit run.dir=outputs/NAME/RUN

Reads the run's config.yaml and evaluate/generations.jsonl, grades the maths tasks again, and asks
of every refused answer whether it would be right by a looser reading (answers/loose.py). Prints
counts for each task and reading and writes evaluate/audit.jsonl, one line for each different
answer, the most frequent first. Scores are not touched.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline.artifacts import iter_jsonl, write_jsonl
from pipeline.ending import command
from pipeline.errors import PipelineError
from pipeline.progress import bar
from pipeline.tasks.answers.loose import MEANING
from pipeline.tasks.answers.notation import join_digits
from pipeline.tasks.arithmetic import NUMBER
from pipeline.tasks.boxed import first_boxes, last_boxed
from pipeline.tasks.grader_pool import shared_pool
from pipeline.tasks.grading import grade_rows
from pipeline.tasks.problem import Problem, after_thought
from pipeline.tasks.registry import load_problems
from pipeline.tasks.task import TaskConfig, sharing_mark

USAGE = "python -m pipeline.tasks.audit run.dir=DIR"
BLOCK = 20_000  # responses graded at a time
LIMIT = 10.0  # seconds for the looser readings of one answer
BOXES = 10  # of a response that are read again
TAIL = 5_000  # characters at the end in which its last number is looked for

Key = tuple[str, str, str, str]  # task, split, problem id, what was said (JSON)


def audit(run_dir: Path) -> list[dict[str, Any]]:
    """The refused answers with a looser reading that agrees, the most frequent first.

    Raises:
        PipelineError: the run has no generations, no configuration or no maths task.
    """
    tasks, seed = _tasks(run_dir)
    path = run_dir / "evaluate" / "generations.jsonl"
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; run the stage evaluate first")
    rows = (row for row in iter_jsonl(path) if row["task"] in tasks)
    said: dict[Key, Counter[str]] = {}
    statuses: dict[Key, str] = {}
    known = _Problems(tasks, seed)
    for row, grade in _refused(rows, tasks, known):
        problem = known.of(row)
        assert problem is not None
        said_here = _said(tasks[row["task"]], problem, row["text"], grade)
        key = (row["task"], row["split"], row["problem_id"], said_here)
        said.setdefault(key, Counter())[row["model"]] += 1
        statuses[key] = grade["status"]
    jobs = [json.loads(key[3]) for key in said]
    with bar(len(jobs), "audit", "answer") as progress:
        verdicts = shared_pool("math_audit", 0, LIMIT).run(jobs, progress.update)
    found = []
    for (key, models), job, verdict in zip(said.items(), jobs, verdicts, strict=True):
        if verdict is not None and verdict["readings"]:
            found.append(
                {
                    "task": key[0],
                    "split": key[1],
                    "problem_id": key[2],
                    "reference": job["gold"],
                    "answer": job["answer"],
                    "status": statuses[key],
                    "readings": verdict["readings"],
                    "count": models.total(),
                    "models": dict(models),
                }
            )
    return sorted(found, key=lambda group: -group["count"])


class _Problems:
    """The problems of the sets that rows name, each set loaded when it is first asked for."""

    def __init__(self, tasks: Mapping[str, TaskConfig], seed: int) -> None:
        self.tasks = tasks
        self.seed = seed
        self.sets: dict[tuple[str, str], dict[str, Problem]] = {}

    def of(self, row: Mapping[str, Any]) -> Problem | None:
        """The row's problem; None if the data no longer holds it."""
        name, split = row["task"], row["split"]
        if (name, split) not in self.sets:
            problems = load_problems(self.tasks[name], split, None, self.seed)
            self.sets[name, split] = {problem.id: problem for problem in problems}
        return self.sets[name, split].get(row["problem_id"])


def _tasks(run_dir: Path) -> tuple[dict[str, TaskConfig], int]:
    """The run's maths tasks by name, and its seed."""
    path = run_dir / "config.yaml"
    try:
        config = OmegaConf.load(path)
        first, *others = (_read(task) for task in (config.task, *config.eval_tasks.values()))
        seed = int(config.seed)
    except OSError as error:
        raise PipelineError(f"{path}: {error.strerror}; give the folder of a run") from None
    except (YAMLError, OmegaConfBaseException, TypeError, AttributeError, ValueError):
        raise PipelineError(f"{path}: not the configuration of a run; give its folder") from None
    tasks = {
        task.name: task for task in (first, *sharing_mark(first, others)) if task.kind == "math"
    }
    if not tasks:
        raise PipelineError(f"{run_dir}: no task of kind math; only their answers are audited")
    return tasks, seed


def _read(task: Any) -> TaskConfig:
    """A task of a stored configuration."""
    return cast(TaskConfig, OmegaConf.to_object(OmegaConf.merge(TaskConfig, task)))


def _refused(
    rows: Iterable[dict[str, Any]], tasks: Mapping[str, TaskConfig], known: _Problems
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, grade) of the answers that are not right."""
    rows = iter(rows)
    while block := list(islice(rows, BLOCK)):
        here = [(row, problem) for row in block if (problem := known.of(row)) is not None]
        problems = {id(problem): problem for _, problem in here}.values()
        with bar(len(here), "grade", "response") as progress:
            grades = grade_rows([row for row, _ in here], problems, tasks, done=progress.update)
        for (row, _), grade in zip(here, grades, strict=True):
            if not grade["correct"]:
                yield row, grade


def _said(task: TaskConfig, problem: Problem, text: str, grade: Mapping[str, Any]) -> str:
    """What the looser readings are asked about, as JSON: the arguments of loose.looser."""
    graded = after_thought(text, task.grade_after)
    part = text if graded is None else graded
    numbers = NUMBER.findall(join_digits(part[-TAIL:]))
    boxes = [box for box in first_boxes(part, BOXES) if box.strip() != grade["prediction"]]
    return json.dumps(
        {
            "gold": problem.answer,
            "answer": grade["prediction"],
            "boxes": [] if graded is None else boxes,
            "last_number": numbers[-1] if numbers and graded is not None else None,
            "thought": last_boxed(text) if graded is None else None,
        }
    )


def table(groups: Iterable[Mapping[str, Any]]) -> str:
    """Answers by task and reading, as text; an answer may agree by several."""
    counts: dict[str, Counter[str]] = {}
    for group in groups:
        row = counts.setdefault(group["task"], Counter())
        row["answers"] += group["count"]
        for reading in group["readings"]:
            row[reading] += group["count"]
    names = [name for name in MEANING if any(row[name] for row in counts.values())]
    lines = [["task", "answers", *names]]
    lines += [
        [task, *(str(row[name]) for name in ("answers", *names))] for task, row in counts.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*shown, *(f"{name}: {MEANING[name]}" for name in names)])


def main(arguments: list[str]) -> None:
    """Audit the run that is named, and say how many answers were found."""
    given = [argument.partition("=") for argument in arguments]
    if [key for key, _, _ in given] != ["run.dir"] or not given[0][2]:
        raise PipelineError(f"usage: {USAGE}")
    run_dir = Path(given[0][2]).expanduser()
    groups = audit(run_dir)
    target = run_dir / "evaluate" / "audit.jsonl"
    write_jsonl(target, groups)
    print(table(groups) if groups else "no refused answer agrees by a looser reading")
    print(f"{len(groups)} different answers in {target}")


if __name__ == "__main__":
    command(main, __doc__)
