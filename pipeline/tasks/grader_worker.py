r"""The child program of grader_pool: one JSON job a line in, one JSON verdict a line out.

It is run by file path as a program of its own and imports no more of the pipeline than the
comparison of answers, so it starts in a second, holds no GPU, and can be killed in the middle of
any computation. Answers of models are hostile input for a computer algebra system (9^{9^{9^9}},
roots of degree 10^6): a time limit inside the process does not stop C code that holds the
interpreter, a kill from outside does.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

MEMORY = 4 * 2**30  # bytes of address space
ROOT = Path(__file__).resolve().parents[2]  # where the package pipeline lies
GRACE = 5  # CPU seconds past the limit after which the kernel kills a worker without a parent


def judge_math(job: dict[str, Any]) -> dict[str, Any]:
    from pipeline.tasks.answers.judge import judge

    verdict = judge(job["answer"], job["prediction"])
    if verdict == "timeout":
        return {"undecided": True}
    graded: dict[str, Any] = {"correct": verdict == "right"}
    return graded | {"status": verdict} if verdict == "no_reference" else graded


def judge_audit(job: dict[str, Any]) -> dict[str, Any]:
    from pipeline.tasks.answers.loose import looser

    return {"readings": looser(**job)}


@lru_cache(maxsize=16)
def gym_dataset(name: str, config: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, **json.loads(config))


def judge_gym(job: dict[str, Any]) -> dict[str, Any]:
    dataset = gym_dataset(job["dataset"], json.dumps(job["config"], sort_keys=True))
    try:
        score = float(dataset.score_answer(job["prediction"], dataset[job["index"]]))
    except BAD_ANSWER:
        score = 0.0
    return {"correct": score >= job["threshold"], "score": score}


def judge_ifeval(job: dict[str, Any]) -> dict[str, Any]:
    """Which instructions a response follows."""
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    texts = _variants(job["response"]) if job["loose"] else [job["response"]]
    followed = []
    for instruction in job["instructions"]:
        checker = INSTRUCTION_DICT[instruction["name"]](instruction["name"])
        checker.build_description(**instruction["arguments"])
        if "prompt" in (checker.get_instruction_args() or {}):
            checker.build_description(prompt=job["prompt"])
        followed.append(any(text.strip() and checker.check_following(text) for text in texts))
    return {"followed": [bool(each) for each in followed]}


def _variants(response: str) -> list[str]:
    """What the benchmark's loose accuracy tries: without first and last line, without asterisks."""
    lines = response.split("\n")
    parts = [lines[1:], lines[:-1], lines[1:-1]]
    texts = [response, *("\n".join(part).strip() for part in parts)]
    return [*texts, *(text.replace("*", "") for text in texts)]


def prepare(kind: str) -> None:
    """Pay for the imports before the first job."""
    if kind == "reasoning_gym":
        import reasoning_gym  # noqa: F401
    elif kind == "ifeval":
        import langdetect
        from lm_eval.tasks.ifeval import instructions_registry  # noqa: F401

        langdetect.DetectorFactory.seed = 0  # else the same text has another language next time
    else:
        sys.path.append(str(ROOT))
        import math_verify  # noqa: F401

        judge_math({"answer": "1", "prediction": "2"})


# What scorers raise on malformed answers: those are wrong answers, not failures of the grader.
BAD_ANSWER = (ValueError, TypeError, LookupError, AttributeError, SyntaxError, ArithmeticError)
JUDGES = {
    "ifeval": judge_ifeval,
    "math": judge_math,
    "math_audit": judge_audit,
    "reasoning_gym": judge_gym,
}


def main() -> None:
    kind, limit = sys.argv[1], float(sys.argv[2])
    # A scheduler signals every process of a job, and a training rank finishes its step: a verdict
    # that is missing would be another reward.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # Verdicts leave by a private descriptor: whatever a library prints cannot mix with them.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prepare(kind)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        ceiling = int(used.ru_utime + used.ru_stime + limit) + GRACE
        resource.setrlimit(resource.RLIMIT_CPU, (ceiling, resource.RLIM_INFINITY))
        print(json.dumps(JUDGES[kind](json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
