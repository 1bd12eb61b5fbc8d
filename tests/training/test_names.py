"""Faults caught: a name that the plan accepts and the installed library does not know, or that it
knows and the plan refuses. The plan imports no library, so it has lists of its own."""

from __future__ import annotations

import inspect

import torch
from transformers import get_scheduler
from transformers.modeling_utils import AttentionInterface
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames, TrainingArguments
from trl.trainer import grpo_trainer

from pipeline.training import check, check_algorithm


def test_losses_and_levels_are_those_of_trl() -> None:
    """The names that TRL's trainer compares its settings with."""
    source = inspect.getsource(grpo_trainer)
    for name in (*check_algorithm.LOSSES, *check_algorithm.LEVELS, *check_algorithm.SCALES):
        assert f'"{name}"' in source, name
    branches = source.split("def _compute_loss")[1]
    known = {word for word in branches.split('"') if f'loss_type == "{word}"' in branches}
    assert known <= set(check_algorithm.LOSSES)


def test_schedules_are_those_that_need_nothing_but_steps() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    works = set()
    for kind in SchedulerType:
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        try:
            schedule = get_scheduler(kind, optimizer, num_warmup_steps=1, num_training_steps=4)
            optimizer.step()
            schedule.step()
        except (TypeError, ValueError):  # arguments of its own, or a loss to look at
            continue
        works.add(kind.value)
    assert works - {"greedy"} == set(check_algorithm.SCHEDULES)


def test_optimizers_are_known_to_transformers() -> None:
    assert set(check_algorithm.OPTIMIZERS) <= {name.value for name in OptimizerNames}
    for name in check_algorithm.OPTIMIZERS:
        TrainingArguments(optim=name, output_dir="unused", use_cpu=True)


def test_attention_is_known_to_transformers() -> None:
    assert set(check.ATTENTION) - {"eager"} <= set(AttentionInterface().valid_keys())
