"""Problems, prompts, graders and rewards.

A name is imported when it is asked for: neither the schema of the configuration nor the process of
a grader pays for all of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.tasks.grading import grade_rows as grade_rows
    from pipeline.tasks.problem import Grade as Grade
    from pipeline.tasks.problem import Problem as Problem
    from pipeline.tasks.prompts import encode_prompt as encode_prompt
    from pipeline.tasks.prompts import keep_short as keep_short
    from pipeline.tasks.registry import check_task as check_task
    from pipeline.tasks.registry import grade as grade
    from pipeline.tasks.registry import grade_many as grade_many
    from pipeline.tasks.registry import load_problems as load_problems
    from pipeline.tasks.registry import quick as quick
    from pipeline.tasks.registry import shares as shares
    from pipeline.tasks.registry import try_load as try_load
    from pipeline.tasks.rewards import reward_function as reward_function
    from pipeline.tasks.rewards import training_rows as training_rows
    from pipeline.tasks.task import DatasetConfig as DatasetConfig
    from pipeline.tasks.task import TaskConfig as TaskConfig
    from pipeline.tasks.votes import merge_votes as merge_votes

_NAMES = {
    "grading": ("grade_rows",),
    "problem": ("Grade", "Problem"),
    "prompts": ("encode_prompt", "keep_short"),
    "registry": (
        "check_task",
        "grade",
        "grade_many",
        "load_problems",
        "quick",
        "shares",
        "try_load",
    ),
    "rewards": ("reward_function", "training_rows"),
    "task": ("DatasetConfig", "TaskConfig"),
    "votes": ("merge_votes",),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
