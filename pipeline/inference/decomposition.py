"""What changes a linear layer's output over an RL run: its input, its weights, or both at once.

With y = W x + b at the first checkpoint and y + Δy at the last (arXiv 2601.04537, activations):

    Δy = W Δx  +  ΔW x  +  ΔW Δx  (+ Δb where there is a bias)
         input    weight   cross

The terms are vectors that add up to Δy, but their norms do not. So a term's share is its
projection on the change, <term, Δy> / ||Δy||², over all measured positions and output features
together: shares sum to 1, and one is negative where a term works against the change. Their norms
||term|| / ||Δy|| stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

TERMS = ("input_change", "weight_change", "cross", "bias_change")
CAPTURED = 1 << 28  # input and output scalars of the first model held at once: 1 GiB
CHUNK = 1 << 24  # output scalars whose terms are held at once

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
Pair = tuple[torch.Tensor, torch.Tensor]


class _Sums:
    """Inner products of one layer over all positions, in fp64: terms, change, first output."""

    def __init__(self) -> None:
        self.products = torch.zeros(len(TERMS), dtype=torch.float64)  # with the change
        self.squares = torch.zeros(len(TERMS), dtype=torch.float64)
        self.change = self.residual = self.output = 0.0

    def add(self, first: nn.Linear, last: nn.Linear, before: Pair, after: Pair) -> None:
        """Add positions: (input fp32 [n, in], output fp32 [n, out]) of both models."""
        weight, moved = first.weight.float(), last.weight.float() - first.weight.float()
        rows = max(1, CHUNK // weight.shape[0])
        for x, y, x_after, y_after in zip(
            *(tensor.split(rows) for tensor in (*before, *after)), strict=True
        ):
            shift, change = x_after - x, y_after - y
            terms = [F.linear(shift, weight), F.linear(x, moved), F.linear(shift, moved)]
            if first.bias is not None:
                terms.append((last.bias.float() - first.bias.float()).expand_as(change))
            for index, term in enumerate(terms):
                self.products[index] += _dot(term, change)
                self.squares[index] += _dot(term, term)
            rest = change - sum(terms)
            self.change += _dot(change, change)
            self.residual += _dot(rest, rest)
            self.output += _dot(y, y)

    def row(self, name: str) -> dict[str, Any]:
        """Shares and norms; None where the output did not change."""
        moved = self.change > 0
        shares = (self.products / self.change).tolist() if moved else [None] * len(TERMS)
        norms = (self.squares / self.change).sqrt().tolist() if moved else [None] * len(TERMS)
        return {
            "name": name,
            **dict(zip(TERMS, shares, strict=True)),
            "norms": dict(zip(TERMS, norms, strict=True)),
            "residual": (self.residual / self.change) ** 0.5 if moved else None,
            "output_change": (self.change / self.output) ** 0.5 if self.output > 0 else None,
        }


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    """Inner product of two fp32 tensors: rows in fp32, their sum in fp64."""
    return float(torch.linalg.vecdot(one, other).double().sum())


@torch.inference_mode()
def decompose(first: Any, last: Any, batches: Batches) -> tuple[list[dict[str, Any]], list[str]]:
    """Decompose the output change of every linear layer between two checkpoints.

    Args:
        first, last: causal language models of one architecture on one device.
        batches: (ids int64 [texts, width], places int64 [positions] into the flattened ids).

    Returns:
        Rows in the order of the modules: `name`, the shares `input_change`, `weight_change`,
        `cross` and `bias_change` (sum 1), `norms` of the same terms relative to ||Δy||,
        `residual` ||Δy - terms|| / ||Δy|| (fp32 rounding, measured against the models' own
        outputs) and `output_change` ||Δy|| / ||y||. Shares are None where nothing changed.
        And the names of linear layers that are not given every position (routed experts: the two
        models may route differently), so have no such decomposition.
    """
    layers = {n: m for n, m in first.named_modules() if isinstance(m, nn.Linear)}
    others = dict(last.named_modules())
    sums: dict[str, _Sums] = {}
    most = max(len(places) for _, places in batches)
    for group in _groups(layers, most):
        for ids, places in batches:
            ids, places = ids.to(first.device), places.to(first.device)
            before = _run(first, {name: layers[name] for name in group}, ids, places)
            after = _run(last, {name: others[name] for name in group}, ids, places)
            for name in before.keys() & after.keys():
                total = sums.setdefault(name, _Sums())
                total.add(layers[name], others[name], before.pop(name), after.pop(name))
    return (
        [sums[name].row(name) for name in layers if name in sums],
        [name for name in layers if name not in sums],
    )


def _groups(layers: dict[str, nn.Linear], positions: int) -> list[list[str]]:
    """Layers in groups whose inputs and outputs, of both models, fit in `CAPTURED`."""
    groups: list[list[str]] = []
    room = 0
    for name, layer in layers.items():
        size = 2 * positions * (layer.in_features + layer.out_features)
        if not groups or size > room:
            groups.append([])
            room = CAPTURED
        groups[-1].append(name)
        room -= size
    return groups


def _run(
    model: Any, layers: dict[str, nn.Linear], ids: torch.Tensor, places: torch.Tensor
) -> dict[str, Pair]:
    """Read `ids`; the input and output of each of `layers` at `places`, fp32 [positions, ...]."""
    found: dict[str, Pair] = {}

    def see(name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        if x[..., 0].numel() == ids.numel():
            found[name] = (
                x.reshape(-1, x.shape[-1])[places].float(),
                y.reshape(-1, y.shape[-1])[places].float(),
            )

    hooks = [
        layer.register_forward_hook(lambda _m, inputs, out, name=name: see(name, inputs[0], out))
        for name, layer in layers.items()
    ]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found
