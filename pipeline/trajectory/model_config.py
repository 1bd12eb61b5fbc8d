"""The types of a model's config.json, checked once so that no reader meets another.

Only what this package or every model class reads; values are the model's own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_object
from pipeline.fields import check_fields

TYPES: dict[str, Any] = {
    "architectures": list[str] | None,
    "model_type": str | None,
    "tie_word_embeddings": bool | None,
    "num_experts": int | None,
    "num_local_experts": int | None,
    "n_routed_experts": int | None,
    "vocab_size": int | None,
    "hidden_size": int | None,
    "intermediate_size": int | list[int] | None,
    "num_hidden_layers": int | None,
    "num_attention_heads": int | list[int] | None,
    "num_key_value_heads": int | list[int] | None,
    "max_position_embeddings": int | None,
    "dtype": str | dict[str, Any] | None,
    "torch_dtype": str | dict[str, Any] | None,
    "rope_scaling": dict[str, Any] | None,
    "rope_parameters": dict[str, Any] | None,
    "quantization_config": dict[str, Any] | None,
    "eos_token_id": int | list[int] | None,
    "pad_token_id": int | None,
    "bos_token_id": int | list[int] | None,
    "auto_map": dict[str, Any] | None,
}
SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config", "vision_config")


def check_config(folder: Path) -> dict[str, Any]:
    """The content of `folder`/config.json.

    Raises:
        PipelineError: not there, no JSON object, or a field of another type; names file and field.
    """
    path = folder / "config.json"
    config = read_object(path)
    _check(str(path), config)
    return config


def _check(where: str, config: Mapping[str, Any]) -> None:
    check_fields(where, config, TYPES | dict.fromkeys(SECTIONS, dict[str, Any] | None))
    for name in SECTIONS:
        section = config.get(name)
        if isinstance(section, Mapping):
            _check(f"{where}: {name}", section)
