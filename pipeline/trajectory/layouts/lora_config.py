"""adapter_config.json of a PEFT adapter: the options that are understood; others are refused.

An option may change what the stored factors mean (DoRA), what they are added to (PiSSA) or when
(activated LoRA), and later versions of PEFT will add more. So the list below is of what is
understood; any other option that is set is refused by its name.

Source: peft/tuners/lora/config.py, and layer.py for what each option does to the merged weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError

CONFIG = "adapter_config.json"
MERGE = "merge it into the model first (model.merge_and_unload(), then save_pretrained)"
# Read by this package: here, in `lora` and in `lora_targets`.
READ = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias"}
    | {"init_lora_weights", "fan_in_fan_out", "base_model_name_or_path", "modules_to_save"}
    | {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
)
# Of no effect on the merged weights, whatever their value: they tell how to train or to load, or
# detail an initialisation that `init_lora_weights` turns on. VeLoRA is another backward pass;
# `ensure_weight_tying` shares tensors that are all stored.
HARMLESS = frozenset(
    {"task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout"}
    | {"runtime_config", "megatron_core", "qalora_group_size", "velora_config"}
    | {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"}
)
MEANING = {
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only and is no change "
    "of the weights; leave this run's adapters out",
    "use_dora": f"DoRA; {MERGE}",
    "lora_bias": f"biases of the factors; {MERGE}",
    "trainable_token_indices": f"trained rows of the embedding; {MERGE}",
    "target_parameters": f"LoRA on parameters, as of experts; {MERGE}",
    "layer_replication": f"repeated layers; {MERGE}",
}
# These start from the base's own weights as they are. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change
# the base on creation: factors and saved base do not add up to the trained model.
INITIALISATIONS = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")
BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class AdapterConfig:
    """What the merged weights depend on.

    Attributes:
        conv1d: PEFT found weights kept as [in, out] (`fan_in_fan_out`), as GPT-2's Conv1D.
        named_base: the model that it was trained on, a folder or a hub id.
        raw: the whole file, for the rules that say which modules are adapted.
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]
    rslora: bool
    bias: str
    conv1d: bool
    named_base: str
    raw: Mapping[str, Any]

    def scale(self, module: str, stored: int) -> float:
        """lora_alpha / r of one module, or / sqrt(r) for rank-stabilised LoRA.

        Args:
            module: its path in the model.
            stored: the rank of the factors in the file.

        Raises:
            PipelineError: the config gives another rank, so its alpha is of other factors.
        """
        rank = int(_matched(self.rank_pattern, module, self.rank))
        if rank != stored:
            raise PipelineError(
                f"{self.path}: r of {module} is {rank}, its stored factors have rank {stored}; "
                "copy the adapter's config and weights of one save"
            )
        alpha = float(_matched(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _matched(patterns: Mapping[str, Any], module: str, default: float) -> Any:
    """The value of the first pattern that matches the end of a module's path, as in PEFT."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_config(folder: Path) -> AdapterConfig:
    """The config of the adapter in `folder`.

    Raises:
        PipelineError: not there, not a LoRA adapter, an option that is not understood or of a wrong
            type; names it and the way out.
    """
    path = folder / CONFIG
    if not path.exists():
        raise PipelineError(f"{folder}: an adapter's weights without {CONFIG}; copy it here too")
    raw = read_object(path)
    _check_type(path, raw)
    _check_initialisation(path, raw)
    for key, value in raw.items():
        if value and key not in READ | HARMLESS:
            shown = f"{path}: {key}={str(value)[:60]}"
            raise PipelineError(f"{shown}: {MEANING.get(key, f'not read here; {MERGE}')}")
    config = AdapterConfig(
        path,
        rank=_get(path, raw, "r", int, None),
        alpha=_get(path, raw, "lora_alpha", (int, float), None),
        rank_pattern=_patterns(path, raw, "rank_pattern"),
        alpha_pattern=_patterns(path, raw, "alpha_pattern"),
        rslora=_get(path, raw, "use_rslora", bool, False),
        bias=_get(path, raw, "bias", str, "none"),
        conv1d=_get(path, raw, "fan_in_fan_out", bool, False),
        named_base=str(raw.get("base_model_name_or_path")),
        raw=raw,
    )
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        _check_names(path, key, raw.get(key))
    indices = raw.get("layers_to_transform")
    listed = indices if isinstance(indices, list) else [] if indices is None else [indices]
    if not all(type(index) is int for index in listed):
        raise PipelineError(f"{path}: layers_to_transform={indices!r}: give numbers of layers")
    if config.bias not in BIASES:
        raise PipelineError(f"{path}: bias={config.bias!r}: not read here; {MERGE}")
    if not config.alpha:
        raise PipelineError(
            f"{path}: lora_alpha=0 makes the adapter nothing (verl's merger writes it where it "
            "does not know the value); set the one that the run was trained with"
        )
    return config


def _check_type(path: Path, raw: Mapping[str, Any]) -> None:
    kind = str(raw.get("peft_type") or "LORA").removeprefix("PeftType.").upper()
    if kind in PROMPTS:
        raise PipelineError(f"{path}: peft_type={kind}: no change of the weights; leave it out")
    if kind != "LORA":
        raise PipelineError(f"{path}: peft_type={kind}: only LORA is read; {MERGE}")


def _check_initialisation(path: Path, raw: Mapping[str, Any]) -> None:
    """A converted adapter says `true` here: PEFT sets it when it subtracts the first factors."""
    value = str(raw.get("init_lora_weights", True)).lower()
    if value not in INITIALISATIONS:
        raise PipelineError(
            f"{path}: init_lora_weights={value}: it changed the base's weights when it began, so "
            "its factors do not belong to the base as saved; save it with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=FIRST_ADAPTER), or "
            f"{MERGE}"
        )


def _get(
    path: Path, raw: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], default: Any
) -> Any:
    value = raw.get(key)
    if value is None:
        value = default
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        problem = "is not given" if value is None else f"is {value!r}"
        raise PipelineError(f"{path}: {key} {problem}; copy the adapter's config again")
    return value


def _patterns(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping from regular expressions of module paths to positive numbers."""
    patterns: Mapping[str, Any] = _get(path, raw, key, dict, {})
    for pattern, value in patterns.items():
        _check_pattern(path, key, pattern)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise PipelineError(f"{path}: {key}: {pattern!r} has the value {value!r}, no number")
    return patterns


def _check_names(path: Path, key: str, value: Any) -> None:
    """A list of names, or one pattern; of modules_to_save PEFT takes each for a pattern."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | None) or not all(isinstance(n, str) for n in names or ()):
        raise PipelineError(f"{path}: {key}={value!r}: expected a list of names")
    for pattern in names or () if isinstance(value, str) or key == "modules_to_save" else ():
        _check_pattern(path, key, pattern)


def _check_pattern(path: Path, key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise PipelineError(f"{path}: {key}: {pattern!r} is no pattern ({error})") from None
