"""The type of every value and the range of every number, whatever stage reads it.

OmegaConf lets lists into lists and null into both, and YAML and the command line know NaN,
infinity and negative numbers: a run that breaks on one of them after hours is what this is against.
"""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from pipeline.artifacts import kind_of
from pipeline.errors import PipelineError
from pipeline.fields import fits, words

if TYPE_CHECKING:
    from pipeline.config import PipelineConfig
    from pipeline.training.spec import Spec

# (least, most, least and most themselves belong to it); keys that are not listed: 0 or more
_ABOVE_0 = (0.0, math.inf, False, False)
_FROM_1 = (1.0, math.inf, True, False)
_SHARE = (0.0, 1.0, False, True)
_BELOW_1 = (0.0, 1.0, True, False)
_ANY = (-math.inf, math.inf, False, False)
Range = tuple[float, float, bool, bool]
RANGES: dict[str, Range] = {
    "seed": (0, 2**32 - 1, True, True),  # what numpy takes
    "model.parameters": _ABOVE_0,
    "task.max_prompt_tokens": _FROM_1,
    "algorithm.learning_rate": _ABOVE_0,
    "algorithm.adam_beta1": _BELOW_1,
    "algorithm.adam_beta2": _BELOW_1,
    "algorithm.max_grad_norm": (0.0, math.inf, True, True),
    "algorithm.prompts_per_step": _FROM_1,
    "algorithm.rollouts_per_prompt": _FROM_1,
    "algorithm.updates_per_step": _FROM_1,
    "algorithm.micro_batch": _FROM_1,
    "algorithm.epsilon": _ABOVE_0,
    "algorithm.epsilon_high": _ABOVE_0,
    "algorithm.temperature": _ABOVE_0,
    "algorithm.top_p": _SHARE,
    "algorithm.max_response_tokens": _FROM_1,
    "algorithm.sft_noise_db": (-200.0, 200.0, True, True),
    "algorithm.lora.alpha": _FROM_1,
    "algorithm.rollout_correction_cap": (1.0, math.inf, True, False),
    "engine.batch_size": _FROM_1,
    "engine.tensor_parallel": _FROM_1,
    "engine.replicas": _FROM_1,
    "engine.gpu_memory_utilization": _SHARE,
    "engine.max_model_len": _FROM_1,
    "engine.kv_cache_gib": _ABOVE_0,
    "compute.processes": _FROM_1,
    "compute.nodes": _FROM_1,
    "compute.zero_stage": (0, 3, True, True),
    "compute.vllm_memory": _SHARE,
    "compute.vllm_tensor_parallel": _FROM_1,
    "compute.vllm_max_model_len": _FROM_1,
    "compute.vllm_kv_cache_gib": _ABOVE_0,
    "compute.vllm_port": (1, 65535, True, True),
    "compute.vllm_group_port": (1, 65535, True, True),
    "compute.master_port": (1, 65535, True, True),
    "compute.threads": _FROM_1,
    "sft_train.steps": _FROM_1,
    "sft_train.batch_size": _FROM_1,
    "sft_train.learning_rate": _ABOVE_0,
    "sft_train.problems": _FROM_1,
    "sft_train.wrong_answers": _BELOW_1,
    "rl_train.steps": _FROM_1,
    "rl_train.snapshot_every": _FROM_1,
    "rl_train.checkpoint_every": _FROM_1,
    "rl_train.problems": _FROM_1,
    "rl_train.rollouts_kept": (0.0, 1.0, True, True),
    "rl_train.reground.every": _FROM_1,
    "rl_train.reground.momentum": _BELOW_1,
    "rl_train.reground.max_movement": _ABOVE_0,
    "rl_train.reground.guard.samples": _FROM_1,
    "rl_train.reground.guard.threshold": (-1.0, 1.0, True, True),  # below 0: a jump must gain
    "rl_train.reground.guard.tries": _FROM_1,
    "rl_train.validation.every": _FROM_1,
    "rl_train.validation.problems": _FROM_1,
    "rl_train.validation.samples": _FROM_1,
    "linear_probe.min_unique": _FROM_1,
    "linear_probe.problems": _FROM_1,
    "linear_probe.responses_per_problem": _FROM_1,
    "linear_probe.max_response_tokens": _FROM_1,
    "linear_probe.max_tokens": _FROM_1,
    "linear_probe.activation_tokens": _FROM_1,
    "extrapolation.last": _ANY,  # held against extrapolation.first
    "weight_extrap.alphas": _ABOVE_0,
    "logit_extrap.alphas": _ANY,
    "logit_extrap.members.coefficient": _ANY,
    "evaluate.samples_per_problem": _FROM_1,
    "evaluate.validation_problems": _FROM_1,
    "evaluate.test_problems": _FROM_1,
    "evaluate.pass_k": _FROM_1,
    "evaluate.top_p": _SHARE,
    "evaluate.max_tokens": _FROM_1,
    "evaluate.bootstrap": _FROM_1,
    "evaluate.control_samples": _FROM_1,
    "estimates.memory_gb": _ABOVE_0,
    "estimates.tflops": _ABOVE_0,
    "estimates.bandwidth_gb": _ABOVE_0,
    "estimates.utilisation": _SHARE,
    "estimates.decoding": _SHARE,
    "estimates.disk_gb": _ABOVE_0,
}
_ZERO_OR_MORE = (0.0, math.inf, True, False)
_LARGEST = 2**63 - 1  # what arrays and libraries hold
_PLACE = re.compile(r"\[\d+\]")  # in a list


def check_values(config: PipelineConfig | Spec) -> None:
    """Refuse a value of another type than its key's, and a number that its key cannot have.

    Raises:
        PipelineError: names the key, the value and what is wanted.
    """
    _check(config, "")


def _check(section: Any, prefix: str) -> None:
    hints = _hints(section.__class__)
    for field in dataclasses.fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            _check(value, f"{key}.")
            continue
        hint = hints[field.name]
        if not fits(value, hint):
            raise PipelineError(f"{key}: {value!r} is {kind_of(value)}, not {words(hint)}")
        if field.name in ("eval_tasks", "extrapolations"):
            for name, entry in value.items():
                _check(entry, f"{key}.{name}.")
        else:
            for place, number in enumerate(value if isinstance(value, list) else [value]):
                if dataclasses.is_dataclass(number):
                    _check(number, f"{key}[{place}].")
                if isinstance(number, int | float) and not isinstance(number, bool):
                    _check_number(key, number)


@cache
def _hints(section: type) -> dict[str, Any]:
    return get_type_hints(section)


def _check_number(key: str, number: float) -> None:
    least, most, with_least, with_most = RANGES.get(_PLACE.sub("", key), _ZERO_OR_MORE)
    low = number > least or (with_least and number == least)
    high = number < most or (with_most and number == most)
    if low and high and (math.isinf(number) or abs(number) <= _LARGEST):
        return
    bounds = [f"{'at least' if with_least else 'above'} {least:g}"] if least > -math.inf else []
    if most < math.inf:
        bounds.append(f"{'at most' if with_most else 'below'} {most:.12g}")
    raise PipelineError(f"{key}: must be {' and '.join(bounds) or 'a finite number'}, not {number}")
