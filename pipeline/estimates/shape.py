"""The numbers of a decoder that decide its memory and arithmetic, and where they are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ModelConfig
from pipeline.errors import PipelineError
from pipeline.training.spec import Architecture, build
from pipeline.trajectory.model_config import check_config

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# kinds of mixtures whose layers are all alike: {model_type: key of one expert's intermediate size}
_MIXTURES = {
    "qwen2_moe": "moe_intermediate_size",
    "qwen3_moe": "moe_intermediate_size",
    "mixtral": "intermediate_size",
    "olmoe": "intermediate_size",
}


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama kind: RMS norms, gated MLP, grouped attention.

    head_dim None: hidden / heads. bias: of the query, key and value projections (Qwen2). qk_norm:
    weights of the two norms of queries and keys (Qwen3: twice a head's width). experts: of a
    mixture, each with `intermediate`, `active` of which a token passes through; shared:
    intermediate size of the one that all tokens pass through.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    head_dim: int | None = None
    tied: bool = False
    bias: bool = False
    qk_norm: int = 0
    experts: int = 0
    active: int = 0
    shared: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab"):
            if getattr(self, name) < 1:
                raise PipelineError(f"{name} of the model must be at least 1; correct it")
        if self.experts and not 1 <= self.active <= self.experts:
            raise PipelineError(
                f"active={self.active} of the model's {self.experts} experts: give how many a "
                "token passes through"
            )

    @property
    def width(self) -> int:
        """Of one head."""
        return self.head_dim or self.hidden // self.heads

    @property
    def working(self) -> int:
        """Intermediate size that one token passes through."""
        return (self.active or 1) * self.intermediate + self.shared

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: projections of attention, MLP or experts with their router (and the
        gate of the shared one), and the norms."""
        projected = (self.heads + 2 * self.kv_heads) * self.width
        attention = self.hidden * (projected + self.heads * self.width) + self.bias * projected
        mlp = 3 * self.hidden * ((self.experts or 1) * self.intermediate + self.shared)
        router = self.hidden * (self.experts + bool(self.shared))
        return attention + mlp + router + 2 * self.hidden + self.qk_norm

    @property
    def used(self) -> float:
        """Share of the weights that a token passes through."""
        idle = 3 * self.hidden * self.intermediate * (self.experts - self.active)
        return 1 - self.layers * idle / self.parameters

    @property
    def parameters(self) -> int:
        """All weights; a tied embedding counts once."""
        embeddings = (1 if self.tied else 2) * self.vocab * self.hidden
        return self.layers * self.layer_parameters + embeddings + self.hidden

    def adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of LoRA's factors, rank x (in + out) for each matrix of a layer that is named;
        those of experts are one tensor together, which has none."""
        h, f, q, kv = (
            *(self.hidden, self.intermediate),
            *(self.heads * self.width, self.kv_heads * self.width),
        )
        sides = {"q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h}
        if not self.experts:
            sides |= {"gate_proj": h + f, "up_proj": h + f, "down_proj": f + h}
        named = [n for n in sides if "all-linear" in targets or n.endswith(tuple(targets))]
        return self.layers * rank * sum(sides[name] for name in named)

    def cache_bytes(self, dtype_bytes: int) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.width * dtype_bytes


def shape_of(model: ModelConfig, folder: Path | None) -> Shape | None:
    """The shape of a model: of its folder where that is here, of the architecture that it will be
    made from, or as `model.shape` says; None if neither tells.

    Raises:
        PipelineError: `model.shape` has an unknown or missing key, or config.json is broken.
    """
    if folder is not None and (folder / "config.json").exists():
        found = from_config(check_config(folder))
        if found is not None:
            return found
    if model.shape:
        return build(Shape, dict(model.shape), "model.shape")
    if model.architecture:
        return from_architecture(build(Architecture, model.architecture, "model.architecture"))
    return None


def from_architecture(made: Architecture) -> Shape:
    """Of a model from scratch: a token for each character, padding and the end."""
    return Shape(
        layers=made.layers,
        hidden=made.hidden,
        intermediate=made.intermediate,
        heads=made.heads,
        kv_heads=made.kv_heads,
        vocab=len(set(made.characters)) + 2,
        tied=made.tie_embeddings,
        bias=made.family == "qwen2",
    )


def from_config(config: Mapping[str, Any]) -> Shape | None:
    """Of a config.json; None for keys of another kind of model, or layers that differ."""
    mixture = _mixture(config)
    if mixture is None or config.get("kv_lora_rank"):
        return None
    keys = {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "intermediate": mixture.get("intermediate", "intermediate_size"),
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
    }
    values: dict[str, Any] = {name: config.get(key) for name, key in keys.items()}
    if not all(isinstance(value, int) and value > 0 for value in values.values()):
        return None
    given, head_dim = config.get("num_key_value_heads"), config.get("head_dim")
    kv_heads = given if isinstance(given, int) else values["heads"]
    even, kind = values["hidden"] // values["heads"], config.get("model_type")
    width = head_dim if isinstance(head_dim, int) else even
    bias = config.get("qkv_bias", True) if kind == "qwen2_moe" else config.get("attention_bias")
    norms = {"qwen3": 2, "qwen3_moe": 2, "olmoe": values["heads"] + kv_heads}
    return Shape(
        **values,
        **{name: config.get(key) or 0 for name, key in mixture.items() if name != "intermediate"},
        kv_heads=kv_heads,
        head_dim=width if width != even else None,
        tied=bool(config.get("tie_word_embeddings", False)),
        bias=kind == "qwen2" or bool(bias),
        qk_norm=norms.get(str(kind), 0) * width,
    )


def _mixture(config: Mapping[str, Any]) -> dict[str, str] | None:
    """The keys of a mixture's numbers; none of a dense model, None where layers are not alike or
    the kind is not known: an estimate from one expert would be far too small."""
    experts = next((key for key in _EXPERTS if (config.get(key) or 0) > 1), None)
    if experts is None:
        return {}
    intermediate = _MIXTURES.get(str(config.get("model_type")))
    dense = config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1
    if intermediate is None or dense or not isinstance(config.get("num_experts_per_tok"), int):
        return None
    found = {"experts": experts, "active": "num_experts_per_tok", "intermediate": intermediate}
    if config.get("shared_expert_intermediate_size"):
        found["shared"] = "shared_expert_intermediate_size"
    return found
