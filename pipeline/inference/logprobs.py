"""How straight the token log-probs of an RL run are (arXiv 2601.04537).

Responses are drawn once from the first checkpoint; every checkpoint then scores each token of
these fixed texts, teacher-forced: log p(token | prompt, earlier tokens of the response). A token's
series over the checkpoints is fitted with a line. Scores are saved after every checkpoint, with
what they were made from: a killed probe resumes with the next one, other filters score nothing.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.artifacts import hash_json, read_jsonl
from pipeline.inference.interface import Engine, Sampling, Source, check_finite, sampling_hash
from pipeline.inference.run import PromptItem, sample_to_jsonl
from pipeline.progress import bar
from pipeline.trajectory.linearity import probe_series, series_r2

CONTEXT_TOKENS = 24  # shown before an example token
PROBABILITIES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
CHANGES = (-math.inf, -2.0, -1.0, -0.5, -0.2, -0.05, 0.05, 0.2, 0.5, 1.0, 2.0, math.inf)  # nats


@dataclass(frozen=True)
class Text:
    """A fixed response: its prompt's and its own tokens."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


def fixed_texts(
    engine: Engine,
    items: Sequence[PromptItem],
    sampling: Sampling,
    model: str | Path,
    folder: Path,
    max_tokens: int,
) -> list[Text]:
    """Responses of a model, drawn once, in random order until they hold `max_tokens` tokens.

    Args:
        engine: of one model, with that one in place.
        items: problems to respond to.
        sampling: how the responses are drawn.
        model: what stands for the first checkpoint: its fingerprint.
        folder: gets responses.jsonl.
        max_tokens: whole responses are taken until they hold so many tokens.
    """
    path = folder / "responses.jsonl"
    fingerprint = hash_json(str(model))[:12]
    sample_to_jsonl(
        engine,
        items,
        sampling,
        path,
        model="base",
        kind="base",
        fingerprint=fingerprint,
        keep_tokens=True,
    )
    rows = {
        (row["problem_id"], row["prompt"], row["sample"]): tuple(row["token_ids"])
        for row in read_jsonl(path)
        if row["fingerprint"] == fingerprint and row["sampling"] == sampling_hash(sampling)
    }
    texts = [
        Text(item.token_ids, rows[item.problem_id, item.prompt, sample])
        for item in items
        for sample in range(sampling.n)
    ]
    order = random.Random(sampling.seed).sample(texts, len(texts))
    chosen: list[Text] = []
    held = 0
    for text in order:
        if held >= max_tokens:
            break
        chosen.append(text)
        held += len(text.response)
    return chosen


def probe_logprobs(
    engine: Engine,
    texts: Sequence[Text],
    sources: Mapping[int, Source],
    folder: Path,
    min_change: float,
    min_unique: int,
    times: Sequence[float] | None = None,
    identities: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Score the texts with every checkpoint, and fit a line to each token.

    Args:
        engine: of one model.
        texts: fixed responses, as `fixed_texts` gives them.
        sources: checkpoint folder (or recipe) of each step; the smallest is the base.
        folder: gets logprobs.safetensors ("step_N": fp32 [tokens], nats).
        min_change: least |last - first| log-prob of a token that counts (paper: 0.2).
        min_unique: least number of distinct values.
        times: where the steps lie on the line of the run, if not at themselves.
        identities: hash of what each step's scores are made from (weights, engine, dtype); None:
            the folder is this run's alone.

    Returns:
        `probe_series`' dictionary with `tokens_total`, `tokens_kept`, the text and context of
        the example tokens, and `r2_by_base_probability` and `r2_by_change` (see `r2_bins`).

    Raises:
        PipelineError: fewer than 3 checkpoints, or a checkpoint that cannot be loaded.
    """
    steps = sorted(sources)
    made_from = {step: (identities or {}).get(step, "") for step in steps}
    values = _score(engine, texts, sources, made_from, folder)
    times = steps if times is None else times
    report = probe_series(values, times, min_change, min_unique)
    r2, _ = series_r2(values, times)
    change = values[-1] - values[0]
    distinct = 1 + (np.diff(np.sort(values, axis=0), axis=0) != 0).sum(axis=0)
    kept = (np.abs(change) > min_change) & (distinct >= min_unique)
    examples = [
        {**example, **_words(engine, texts, example["index"])} for example in report["examples"]
    ]
    return {
        **report,
        "tokens_total": report["scalars_total"],
        "tokens_kept": report["scalars_kept"],
        "responses": len(texts),
        "r2_by_base_probability": r2_bins(np.exp(values[0]), r2, kept, PROBABILITIES),
        "r2_by_change": r2_bins(change, r2, kept, CHANGES),
        "examples": examples,
    }


def r2_bins(
    by: NDArray[np.float32],
    r2: NDArray[np.float32],
    kept: NDArray[np.bool_],
    edges: Sequence[float],
) -> list[dict[str, Any]]:
    """Median R² of the tokens in each bin of `by`, over all of them and over those kept.

    Args:
        by: [tokens], what to bin by: base probability, or change of log p in nats.
        r2, kept: [tokens].
        edges: ascending, first and last included; a bin holds low <= by < high, the last one
            its upper edge too.

    Returns:
        A row a bin: `low` and `high` (None: open), `total`, `kept` (counts), `r2_median` of those
        kept and `r2_median_unfiltered` (None where there are none).
    """
    inner = np.asarray(edges[1:-1], by.dtype)
    place = np.searchsorted(inner, by, side="right")

    def median(which: NDArray[np.bool_]) -> float | None:
        return float(np.median(r2[which])) if which.any() else None

    rows = []
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = place == index
        rows.append(
            {
                "low": low if math.isfinite(low) else None,
                "high": high if math.isfinite(high) else None,
                "total": int(inside.sum()),
                "kept": int((inside & kept).sum()),
                "r2_median": median(inside & kept),
                "r2_median_unfiltered": median(inside),
            }
        )
    return rows


def _score(
    engine: Engine,
    texts: Sequence[Text],
    sources: Mapping[int, Source],
    made_from: Mapping[int, str],
    folder: Path,
) -> NDArray[np.float32]:
    """log p of every response token under every checkpoint: [checkpoints, tokens]."""
    path = folder / "logprobs.safetensors"
    identity = {"texts": hash_json([[text.prompt, text.response] for text in texts])}
    identity |= {f"step_{step}": what for step, what in made_from.items()}
    found = _load(path, identity)
    prompts, responses = [t.prompt for t in texts], [t.response for t in texts]
    with bar(len(made_from), "log-probs", "checkpoint") as progress:
        for step in made_from:
            name, source = f"step_{step}", sources[step]
            if name not in found:
                engine.load_weights(source)
                rows = engine.score(prompts, responses)
                for row in rows:
                    check_finite(f"step {step} ({source})", row)
                found[name] = torch.tensor([value for row in rows for value in row])
                temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                save_file(found, temporary, identity)
                os.replace(temporary, path)
            progress.update(1)
    return np.stack([found[f"step_{step}"].numpy() for step in made_from])


def _load(path: Path, identity: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Scores that an earlier start has saved of the same texts, under the same models."""
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        made = file.metadata() or {}
        if made.get("texts") != identity["texts"]:
            return {}
        there = {*file.keys()}
        same = [name for name, what in identity.items() if name in there and made.get(name) == what]
        return {name: file.get_tensor(name) for name in same}


def _words(engine: Engine, texts: Sequence[Text], index: int) -> dict[str, str]:
    """The token at `index` of all response tokens, and the text before it."""
    for text in texts:
        if index < len(text.response):
            before = [*text.prompt, *text.response[:index]][-CONTEXT_TOKENS:]
            decode = engine.tokenizer.decode
            return {"token": decode([text.response[index]]), "context": decode(before)}
        index -= len(text.response)
    raise IndexError("more tokens than the texts hold")
