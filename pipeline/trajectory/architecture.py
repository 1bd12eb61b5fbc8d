"""Whether two model folders compute alike: equal weights under another rope, another number of
heads or another epsilon are another function, of which no difference of weights says anything.

Only what both config.json state is compared, in the spellings of transformers 4 and 5: what is left
out is the default of a version that nobody notes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.model_config import SECTIONS

# Fields that decide what is computed from weights of the same shapes.
COMPUTES = re.compile(
    r"hidden_act|hidden_activation|activation_function|head_dim|n_head"
    r"|num_(attention|key_value)_heads|(rms|layer)_norm_(eps|epsilon)|norm_eps"
    r"|layer_types|rotary_pct|partial_rotary_factor|rope_local_base_freq|parallel_attn|qk_layernorm"
    r"|num_experts_per_tok|moe_top_?k|norm_topk_prob|routed_scaling_factor|n_group|topk_group"
    r"|(attn|final)_logit_softcapping|query_pre_attn_scalar|logit_scale|logits_scaling"
    r"|(embedding|residual|attention)_multiplier|scale_emb|scale_depth|rope\..+"
)
_PLAIN = ("default", "mrope")  # one function: positions in parts, which are the same for text


def check_alike(base: Path, other: Path) -> None:
    """Refuse a checkpoint whose config.json makes another function of the base's weights.

    Args:
        base, other: model folders; of the models' text parts.

    Raises:
        PipelineError: names both files, the field and its values.
    """
    if base == other:
        return
    ours, theirs = (_computes(read_object(folder / "config.json")) for folder in (base, other))
    for field in sorted(ours.keys() & theirs.keys()):
        if ours[field] != theirs[field]:
            raise PipelineError(
                f"{other / 'config.json'}: {field} is {theirs[field]}, and {ours[field]} in "
                f"{base / 'config.json'}: the models of a run must compute alike; put into both "
                "what it was trained with"
            )


def _computes(config: dict[str, Any]) -> dict[str, Any]:
    """The deciding fields that are stated, rope's under `rope.`."""
    config = next((config[s] for s in SECTIONS[:4] if isinstance(config.get(s), dict)), config)
    stated = {key: config.get(key) for key in config} | _rope(config)
    return {k: v for k, v in stated.items() if v is not None and COMPUTES.fullmatch(k)}


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Theta, kind and factors, wherever this version of transformers writes them."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in rope.values()):  # one for each kind of layer
        return {f"rope.{kind}.{k}": v for kind, each in rope.items() for k, v in each.items()}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    found = {
        f"rope.{key}": value for key, value in rope.items() if key not in ("type", "rope_type")
    }
    found["rope.rope_theta"] = rope.get("rope_theta") or config.get("rope_theta")
    return found | {"rope.kind": "default" if kind in _PLAIN else kind}
