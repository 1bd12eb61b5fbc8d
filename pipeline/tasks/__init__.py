"""Problems, prompts, graders and rewards."""

from pipeline.tasks.grading import grade_file, grade_rows
from pipeline.tasks.problem import Grade, Problem
from pipeline.tasks.prompts import encode_prompt, keep_short
from pipeline.tasks.registry import (
    check_task,
    grade,
    grade_many,
    load_problems,
    quick,
    try_load,
)
from pipeline.tasks.rewards import reward_function, training_rows
from pipeline.tasks.votes import merge_votes

__all__ = [
    "Grade",
    "Problem",
    "check_task",
    "encode_prompt",
    "grade",
    "grade_file",
    "grade_many",
    "grade_rows",
    "keep_short",
    "load_problems",
    "merge_votes",
    "quick",
    "reward_function",
    "training_rows",
    "try_load",
]
