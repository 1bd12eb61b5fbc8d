"""Tasks of reasoning-gym by name: generated problems, scored by the package's own verifiers.

A problem is (data set, configuration, index); the verifier's entry is made again from these, so
nothing but JSON travels with a problem. Splits are disjoint because the hash of the question
decides the split, not the generator's seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from pipeline.errors import PipelineError
from pipeline.tasks.answers.notation import join_digits
from pipeline.tasks.arithmetic import NUMBER
from pipeline.tasks.boxed import last_boxed
from pipeline.tasks.grader_pool import grade_answers, shared_pool
from pipeline.tasks.kind import Done, Example, Kind, Pairs
from pipeline.tasks.problem import Grade, Problem, Request
from pipeline.tasks.sandbox import check_mode
from pipeline.tasks.splits import DEFAULT_SPLITS, check_splits, split_of
from pipeline.tasks.task import PROBLEM, TaskConfig

TRIES = 50  # generated questions per wanted problem before a split counts as exhausted
TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class GymOptions:
    r"""generator: name of the data set in reasoning-gym; config: its parameters.

    extract: where the answer stands: tag (last <answer></answer>), boxed (last \boxed{}), number
    (last number) or all (the whole response). threshold: score from which an answer is right.
    sandbox: bwrap or none; some verifiers (countdown, ...) evaluate the answer as code. workers,
    limit: grader processes (0: one a core, up to 16) and seconds for one answer.
    """

    generator: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    extract: str = "tag"
    threshold: float = 1.0
    splits: Mapping[str, float] = field(default_factory=lambda: DEFAULT_SPLITS)
    split_seed: int = 0
    sandbox: str = "bwrap"
    workers: int = 0
    limit: float = 10.0


def load_gym(request: Request, o: GymOptions) -> list[Problem]:
    """`count` distinct questions of the split; the generator is endless, so count is required."""
    task, split, count = request.task.name, request.split, request.count
    check_splits(request, o.splits)
    if count is None:
        raise PipelineError(
            f"task {task}: reasoning-gym generates without end; say how many problems "
            "(rl_train.problems, evaluate.validation_problems, evaluate.test_problems)"
        )
    if o.extract not in EXTRACT:
        raise PipelineError(f"task {task}: options.extract is none of {', '.join(EXTRACT)}")
    config = {
        **o.config,
        "seed": int(o.config.get("seed", request.seed)),
        "size": TRIES * count + 100,
    }
    dataset = create(task, o.generator, config)
    template = f"{PROBLEM}\n{SUFFIX[o.extract]}".strip()
    problems: dict[str, Problem] = {}
    for index in range(config["size"]):
        if len(problems) == count:
            break
        entry = dataset[index]
        question = entry["question"].strip()
        if question in problems or split_of(question, o.splits, o.split_seed) != split:
            continue
        problems[question] = Problem(
            id=f"{o.generator}:{config['seed']}:{index}",
            prompt=request.task.pose(question, template),
            answer=str(entry["answer"]),
            split=split,
            meta={"dataset": o.generator, "config": config, "index": index, "extract": o.extract},
        )
    if len(problems) < count:
        raise PipelineError(
            f"task {task}: {count} problems wanted but {o.generator} gave {len(problems)} distinct "
            f"ones for {split}; ask for fewer or widen options.config"
        )
    return list(problems.values())


def create(task: str, name: str, config: Mapping[str, Any]) -> Any:
    """The generator, or an error that says what is missing or wrong."""
    if find_spec("reasoning_gym") is None:
        raise PipelineError(
            f"task {task} needs the package reasoning-gym: pip install reasoning-gym"
        )
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise PipelineError(f"task {task}: reasoning-gym has no data set {name!r}")
    try:
        return reasoning_gym.create_dataset(name, **config)
    except (TypeError, ValueError, AssertionError) as error:
        raise PipelineError(f"task {task}: options.config for {name}: {error}") from error


def _tag(text: str) -> str | None:
    found = TAG.findall(text)
    return found[-1].strip() if found else None


def _number(text: str) -> str | None:
    found = NUMBER.findall(join_digits(text))
    return found[-1].replace(",", "") if found else None


EXTRACT: dict[str, Callable[[str], str | None]] = {
    "tag": _tag,
    "boxed": last_boxed,
    "number": _number,
    "all": lambda text: text.strip() or None,
}
SUFFIX = {
    "tag": "Give the final answer between <answer> and </answer>.",
    "boxed": "Output the final answer within \\boxed{}.",
    "number": "",
    "all": "Reply with the answer only.",
}


def grade_gym(task: TaskConfig, pairs: Pairs, o: GymOptions, done: Done = None) -> list[Grade]:
    """Grade (problem, response) pairs in worker processes: some verifiers evaluate the answer."""
    check_mode(task.name, o.sandbox)
    predictions = [EXTRACT[problem.meta["extract"]](text) for problem, text in pairs]
    jobs = [
        {
            "dataset": problem.meta["dataset"],
            "config": dict(problem.meta["config"]),
            "index": problem.meta["index"],
            "prediction": prediction,
            "threshold": o.threshold,
        }
        for (problem, _), prediction in zip(pairs, predictions, strict=True)
        if prediction is not None
    ]
    pool = shared_pool("reasoning_gym", o.workers, o.limit, o.sandbox)
    return grade_answers(pool, predictions, jobs, lambda verdict: bool(verdict["correct"]), done)


KIND = Kind(
    GymOptions,
    load_gym,
    grade_gym,
    Example(
        options={
            "generator": "chain_sum",
            "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
            "splits": {"test": 1.0},
        },
        prompt="State the final answer to the following arithmetic problem: 0 - 4 =\n"
        "Give the final answer between <answer> and </answer>.",
        right="<answer>0 + 4</answer>, no: <answer>-4</answer>",
        wrong="-4",
    ),
    check=lambda task, o: create(task.name, o.generator, o.config),
    endless=True,
)
