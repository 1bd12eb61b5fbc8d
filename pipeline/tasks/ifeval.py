"""Instructions whose following can be checked: IFEval (Zhou et al. 2023, arXiv 2311.07911).

A row has a prompt and the instructions in it ("at least 300 words", "no commas"), each a name and
its arguments. They are checked by the published checkers, as the package lm-eval keeps them
(`pip install "lm-eval[ifeval]"`); nothing of them is written anew. A response is right if it
follows all instructions of its prompt (the benchmark's prompt-level accuracy).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.grader_pool import grade_answers, shared_pool
from pipeline.tasks.kind import Done, Example, Kind, Pairs
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.rows import column, load_rows
from pipeline.tasks.splits import check_splits, choose, split_of
from pipeline.tasks.task import TaskConfig

PACKAGES = ("lm_eval", "langdetect", "immutabledict", "nltk")
DATA = "tokenizers/punkt_tab"  # NLTK's; two checkers split sentences and words with it

# The published instructions and what each must be told: a checker draws what it is not told.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "keywords:existence": ("keywords",),
    "keywords:frequency": ("keyword", "frequency", "relation"),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:letter_frequency": ("letter", "let_frequency", "let_relation"),
    "language:response_language": ("language",),
    "length_constraints:number_sentences": ("num_sentences", "relation"),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_words": ("num_words", "relation"),
    "length_constraints:nth_paragraph_first_word": (
        "num_paragraphs",
        "nth_paragraph",
        "first_word",
    ),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:constrained_response": (),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "detectable_format:json_format": (),
    "detectable_format:title": (),
    "combination:two_responses": (),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "startend:end_checker": ("end_phrase",),
    "change_case:capital_word_frequency": ("capital_frequency", "capital_relation"),
    "change_case:english_capital": (),
    "change_case:english_lowercase": (),
    "punctuation:no_comma": (),
    "startend:quotation": (),
}


@dataclass(frozen=True)
class IFEvalOptions:
    """loose: a response also counts without its first or last line, or without asterisks (the
    benchmark's loose accuracy). workers, limit: grader processes (0: one a core, up to 16) and
    seconds for one response.
    """

    loose: bool = False
    splits: Mapping[str, float] = field(default_factory=lambda: {"test": 1.0})
    split_seed: int = 0
    workers: int = 0
    limit: float = 10.0


def load_ifeval(request: Request, o: IFEvalOptions) -> list[Problem]:
    """The prompts of the split, as the data set has them: an instruction may be about the prompt.

    Raises:
        PipelineError: an instruction that is not known, or lacks an argument.
    """
    task = request.task
    check_splits(request, o.splits)
    problems: dict[str, Problem] = {}
    for number, row in enumerate(load_rows(task), 1):
        text = column(task, row, "prompt")
        if not isinstance(text, str) or not text.strip():
            raise PipelineError(
                f"task {task.name}: {task.source.path}: row {number}: prompt is no text; correct "
                "the row or leave it out"
            )
        if split_of(text, o.splits, o.split_seed) != request.split:
            continue
        names = column(task, row, "instruction_id_list")
        given = column(task, row, "kwargs")
        instructions = _instructions(task, number, names, given)
        identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        meta = {"prompt": text, "instructions": instructions}
        problem = Problem(identity, task.pose(text), ", ".join(names), request.split, meta)
        problems.setdefault(identity, problem)
    return choose(list(problems.values()), request)


def _instructions(task: TaskConfig, number: int, names: Any, given: Any) -> list[dict[str, Any]]:
    """[{"name", "arguments"}] of one row; columns that other rows have are None there."""
    where = f"task {task.name}: {task.source.path}: row {number}"
    if not isinstance(names, list) or not isinstance(given, list) or len(names) != len(given):
        raise PipelineError(
            f"{where}: instruction_id_list and kwargs must be lists of one length; correct the row"
        )
    if not names:
        raise PipelineError(f"{where}: no instruction to check; leave the row out")
    found = []
    for name, values in zip(names, given, strict=True):
        if name not in ARGUMENTS:
            raise PipelineError(
                f"{where}: unknown instruction {name!r}; known: {', '.join(ARGUMENTS)}"
            )
        arguments = {key: value for key, value in dict(values or {}).items() if value is not None}
        lacks = [key for key in ARGUMENTS[name] if key not in arguments]
        unknown = [key for key in arguments if key not in ARGUMENTS[name]]
        if lacks or unknown:
            what = f"lacks {lacks[0]}" if lacks else f"has no argument {unknown[0]}"
            raise PipelineError(f"{where}: {name} {what}; correct the row's kwargs")
        found.append({"name": name, "arguments": arguments})
    return found


def check_packages(task: TaskConfig, _: IFEvalOptions) -> None:
    """Raise PipelineError if the checkers, or the data that they read, are not installed."""
    if any(find_spec(package) is None for package in PACKAGES):
        raise PipelineError(
            f'task {task.name} needs the published checkers: pip install "lm-eval[ifeval]"'
        )
    import nltk.data

    try:
        nltk.data.find(DATA)
    except LookupError:
        raise PipelineError(
            f"task {task.name} needs NLTK's data set punkt_tab: python -m nltk.downloader "
            "punkt_tab (for a machine without a network: copy the folder and set NLTK_DATA)"
        ) from None


def grade_ifeval(
    task: TaskConfig, pairs: Pairs, o: IFEvalOptions, done: Done = None
) -> list[Grade]:
    """Grade (problem, response) pairs in worker processes; "no_answer" for an empty response."""
    check_packages(task, o)
    texts = [text.strip() or None for _, text in pairs]
    jobs = [
        {
            "prompt": problem.meta["prompt"],
            "instructions": list(problem.meta["instructions"]),
            "response": text,
            "loose": o.loose,
        }
        for (problem, _), text in zip(pairs, texts, strict=True)
        if text is not None
    ]
    pool = shared_pool("ifeval", o.workers, o.limit)
    return grade_answers(pool, texts, jobs, lambda verdict: all(verdict["followed"]), done)


KIND = Kind(
    IFEvalOptions,
    load_ifeval,
    grade_ifeval,
    Example(
        record={
            "key": 1000,
            "prompt": "Name three fruits in lower case, without commas.",
            "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
            "kwargs": [{}, {}],
        },
        prompt="Name three fruits in lower case, without commas.",
        right="i would name the apple and the pear and the plum as fruits that grow here.",
        wrong="i would name the apple, the pear, and the plum as fruits that grow here.",
    ),
    check=check_packages,
)
