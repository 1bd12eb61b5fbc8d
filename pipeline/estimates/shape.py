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


@dataclass(frozen=True)
class Shape:
    """A dense decoder of the Llama kind: RMS norms, gated MLP, grouped attention.

    head_dim None: hidden / heads. bias: of the query, key and value projections (Qwen2).
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

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab"):
            if getattr(self, name) < 1:
                raise PipelineError(f"{name} of the model must be at least 1; correct it")

    @property
    def width(self) -> int:
        """Of one head."""
        return self.head_dim or self.hidden // self.heads

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: projections of attention and MLP, and two norms."""
        projected = (self.heads + 2 * self.kv_heads) * self.width
        attention = self.hidden * (projected + self.heads * self.width)
        return (
            attention
            + self.bias * projected
            + 3 * self.hidden * self.intermediate
            + (2 * self.hidden)
        )

    @property
    def parameters(self) -> int:
        """All weights; a tied embedding counts once."""
        embeddings = (1 if self.tied else 2) * self.vocab * self.hidden
        return self.layers * self.layer_parameters + embeddings + self.hidden

    def adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of LoRA's factors, rank x (in + out) for each matrix of a layer that is named."""
        h, f, q, kv = (
            *(self.hidden, self.intermediate),
            *(self.heads * self.width, self.kv_heads * self.width),
        )
        sides = {"q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h}
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
    """Of a config.json; None for a mixture of experts and for keys of another kind of model."""
    if any((config.get(key) or 0) > 1 for key in _EXPERTS):
        return None
    keys = {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "intermediate": "intermediate_size",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
    }
    values: dict[str, Any] = {name: config.get(key) for name, key in keys.items()}
    if not all(isinstance(value, int) and value > 0 for value in values.values()):
        return None
    kv_heads = config.get("num_key_value_heads")
    head_dim, even = config.get("head_dim"), values["hidden"] // values["heads"]
    return Shape(
        **values,
        kv_heads=kv_heads if isinstance(kv_heads, int) else values["heads"],
        head_dim=head_dim if isinstance(head_dim, int) and head_dim != even else None,
        tied=bool(config.get("tie_word_embeddings", False)),
        bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias", False)),
    )
