"""How straight the hidden states of an RL run are (arXiv 2601.04537), from sums alone.

The texts are held fixed and every checkpoint reads them. Hooks see the residual stream after the
embedding, after each decoder layer and where it enters the output head. Of each scalar h only
the base value h_0 and the sums of d, w d and d² with d = h_t - h_0 are kept (w: centred steps), so
checkpoints are read once, in step order, and memory does not depend on how many there are.

Everything is computed in fp32 whatever the checkpoints' format: bfloat16 rounds a hidden state by
0.4 %, about as much as RL changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.inference.decomposition import decompose
from pipeline.inference.device import pick_device
from pipeline.inference.interface import Source
from pipeline.inference.loading import load_source
from pipeline.progress import bar
from pipeline.trajectory.histogram import R2Counts
from pipeline.trajectory.kernels import KEPT

BATCH_TOKENS = 1024  # that go through the model together, unless one text is longer
CHUNK = 1 << 22  # scalars whose R² is computed at once
HEAD_INPUT = "head input"  # what the output head reads: the last state after the final norm
SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Batch:
    """Texts that are read together, padded on the right.

    Attributes:
        ids: int64 [texts, width]; with causal attention no real token sees the padding.
        places: int64 [positions], the positions that are measured, into the flattened `ids`.
    """

    ids: torch.Tensor
    places: torch.Tensor


def make_batches(texts: Sequence[Sequence[int]], positions: int, batch_tokens: int) -> list[Batch]:
    """The first `positions` different positions of `texts`, in batches.

    A hidden state depends on the tokens up to its own alone, so where responses share a prompt, or
    a beginning, the common positions are measured once.

    Args:
        texts: token ids of prompt and response; read in this order until there are enough.
        positions: most positions to measure.
        batch_tokens: most tokens, with padding, in a batch of several texts.
    """
    nodes: dict[tuple[int, int], int] = {}
    chosen: list[tuple[list[int], list[int]]] = []
    for text in texts:
        node, new = 0, []
        for place, token in enumerate(text):
            if (node, token) not in nodes:
                if len(nodes) == positions:
                    break
                nodes[node, token] = len(nodes) + 1
                new.append(place)
            node = nodes[node, token]
        if new:
            chosen.append((list(text[: new[-1] + 1]), new))
    chosen.sort(key=lambda item: len(item[0]), reverse=True)
    batches, start = [], 0
    while start < len(chosen):
        width = len(chosen[start][0])
        part = chosen[start : start + max(1, batch_tokens // width)]
        ids = torch.tensor([text + [0] * (width - len(text)) for text, _ in part])
        places = [row * width + place for row, (_, new) in enumerate(part) for place in new]
        batches.append(Batch(ids, torch.tensor(places)))
        start += len(part)
    return batches


@contextmanager
def watched(model: Any, see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Call `see` with the name and value [texts, width, hidden] of every hidden state computed.

    Raises:
        PipelineError: the decoder layers of this architecture are not one list of modules.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = (m for m in model.get_decoder().modules() if isinstance(m, nn.ModuleList))
    layers = next((found for found in lists if len(found) == count), None)
    if layers is None:
        raise PipelineError(
            f"{type(model).__name__}: no list of {count} decoder layers; "
            "set linear_probe.activations=false"
        )

    def after(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, out: see(name, out[0] if isinstance(out, tuple) else out)

    names = {module: name for name, module in model.named_modules()}
    hooks = [
        module.register_forward_hook(after(names[module]))
        for module in (model.get_input_embeddings(), *layers)
    ]
    head = model.get_output_embeddings()
    hooks.append(head.register_forward_pre_hook(lambda _module, args: see(HEAD_INPUT, args[0])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Moments:
    """Sums over the checkpoints of one layer's hidden states: fp32 [positions, hidden] each."""

    def __init__(self, positions: int, hidden: int, device: torch.device) -> None:
        self.base, self.total, self.product, self.square, self.last = torch.zeros(
            5, positions, hidden, device=device
        )

    def add(self, start: int, state: torch.Tensor, weight: float, first: bool) -> None:
        """Add a checkpoint's states (fp32 [n, hidden]) at positions start, start + 1, ...

        Args:
            weight: the checkpoint's centred step, scaled so that all squares sum to 1.
            first: of the base checkpoint, whose difference to itself is 0.
        """
        span = slice(start, start + len(state))
        if first:
            self.base[span] = state
            return
        change = torch.sub(state, self.base[span], out=self.last[span])
        self.total[span].add_(change)
        self.product[span].add_(change, alpha=weight)
        self.square[span].addcmul_(change, change)

    def count(self, count: int, least: float, into: R2Counts) -> int:
        """Add the R² of every scalar to `into`; the number that never move.

        Args:
            count: checkpoints, the base included.
            least: a scalar is kept if |last - first| is above this.
        """
        constant = 0
        flat = (self.total, self.product, self.square, self.last)
        parts = zip(*(one.flatten().split(CHUNK) for one in flat), strict=True)
        for total, product, square, last in parts:
            spread = (square - total.square() / count).clamp_(min=SMALLEST)
            r2 = (product.square() / spread).clamp_(max=1.0)
            kept = (last.abs() > least).to(torch.uint8) * int(KEPT)
            into.add_values(r2.cpu().numpy(), kept.cpu().numpy())
            constant += int((square == 0).sum())
        return constant


def probe_activations(
    texts: Sequence[Sequence[int]],
    sources: Mapping[int, Source],
    *,
    positions: int,
    min_change: float,
    times: Sequence[float] | None = None,
) -> dict[str, Any]:
    """R² of every hidden-state scalar on the step, and what drives each linear layer's output.

    Args:
        texts: token ids of prompts with their fixed responses.
        sources: checkpoint folder (or recipe) of each step, at least 3; the smallest is the base.
        positions: most positions to measure. Memory: 20 bytes x positions x hidden size x
            (layers + 2) beside the model in fp32; two models for the decomposition at the end.
        min_change: a scalar is kept if |last - first| is above this times the median |h_0| of its
            layer.
        times: where the steps lie on the line of the run, if not at themselves.

    Returns:
        The content of activations.json: figures over all hidden states in the form of
        logprobs.json, one row a layer in `layers`, and `decomposition` (see `decompose`).

    Raises:
        PipelineError: fewer than 3 checkpoints, one that cannot be loaded, no texts, or NaN or
            infinity in a hidden state.
    """
    steps = sorted(sources)
    if len(steps) < 3:
        raise PipelineError(f"activations need at least 3 checkpoints, there are {len(steps)}")
    batches = make_batches(texts, positions, BATCH_TOKENS)
    if not batches:
        raise PipelineError("activations need a text to read; see linear_probe.problems")
    place = pick_device()
    moments: dict[str, Moments] = {}
    times = steps if times is None else times
    weights = np.asarray(times, np.float64) - np.mean(times)
    weights /= np.sqrt(weights @ weights)
    model: Any = None
    with bar(len(steps), "activations", "checkpoint") as progress:
        for step, weight in zip(steps, weights.tolist(), strict=True):
            model = None  # freed before the next one is loaded
            model = load_source(sources[step], torch.float32, place)
            _read(model, batches, moments, weight, step == steps[0], sources[step])
            progress.update(1)
    report = _report(moments, times, min_change)
    moments.clear()
    base = load_source(sources[steps[0]], torch.float32, place)
    rows, left_out = decompose(base, model, [(batch.ids, batch.places) for batch in batches])
    return {
        **report,
        "positions": sum(len(batch.places) for batch in batches),
        "texts": sum(len(batch.ids) for batch in batches),
        "decomposition": rows,
        "decomposition_left_out": left_out,
    }


@torch.inference_mode()
def _read(
    model: Any,
    batches: Sequence[Batch],
    moments: dict[str, Moments],
    weight: float,
    first: bool,
    source: Source,
) -> None:
    """Let one checkpoint read all batches, and add its hidden states to the sums."""
    device, start = model.device, 0
    total = sum(len(batch.places) for batch in batches)
    for batch in batches:
        places = batch.places.to(device)

        def see(
            name: str, state: torch.Tensor, places: torch.Tensor = places, start: int = start
        ) -> None:
            picked = state.flatten(0, 1)[places].float()
            if not bool(picked.isfinite().all()):
                raise PipelineError(f"{source}: NaN or infinity in the hidden state {name}")
            if first and name not in moments:
                moments[name] = Moments(total, picked.shape[1], device)
            moments[name].add(start, picked, weight, first)

        with watched(model, see):
            model(input_ids=batch.ids.to(device), use_cache=False)
        start += len(batch.places)


def _report(
    moments: Mapping[str, Moments], steps: Sequence[float], min_change: float
) -> dict[str, Any]:
    """Figures over all layers, and a row for each."""
    everything, constant, rows = R2Counts(), 0, []
    for index, (name, sums) in enumerate(moments.items()):
        counts = R2Counts()
        scale = float(sums.base.abs().median())
        still = sums.count(len(steps), min_change * scale, counts)
        everything.add(counts)
        constant += still
        row: dict[str, Any] = {
            "name": name,
            "layer": index - 1 if 0 < index < len(moments) - 1 else None,
            **counts.figures(),
            "median_size": scale,
            "relative_movement": float(sums.last.norm() / sums.base.norm().clamp(min=SMALLEST)),
        }
        row["unfiltered"]["constant"] = still
        rows.append(row)
    return {**everything.report(constant, steps, {"min_change": min_change}), "layers": rows}
