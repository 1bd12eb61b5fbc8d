"""Start an engine by its name: the one place that knows which engines there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.inference.interface import (
    Engine,
    alpha_coefficients,
    check_coefficients,
    check_model_folder,
)


def open_engine(
    name: str,
    model: Path,
    *,
    second: Path | None = None,
    alpha: float = 1.0,
    others: Sequence[Path] = (),
    coefficients: Sequence[float] | None = None,
    dtype: str = "float32",
    batch_size: int = 256,
    seed: int = 0,
    speculative: int = 0,
    **options: Any,
) -> Engine:
    """Start an engine on a checkpoint folder.

    Args:
        name: "hf" or "vllm".
        model: checkpoint folder; with `second` it is the earlier model, l0.
        second: later checkpoint, l1: the engine then mixes logits l0 + α (l1 - l0) at every
            token (arXiv 2601.04537, logit extrapolation).
        alpha: α to begin with, for a mixture of these two.
        others: instead of `second`: the further models of a mixture Σ c_i l_i, of `model`'s
            vocabulary and of any size (vLLM: of its size). The last model's tokenizer and end of
            text are the mixture's.
        coefficients: c_i to begin with, one for `model` and each of `others`.
        dtype: "float32", "bfloat16" or "float16"; logits are mixed and scored in fp32 always.
        batch_size: most sequences decoded at once.
        seed: of the engine's own random numbers (the HF engine has none: its draws depend on
            `Sampling.seed` alone).
        speculative: for a mixture of two on the HF engine, tokens that the second model drafts
            before the first one reads them (see `speculative.py`); 0: all in lockstep.
        **options: of the engine: `device`, `threads` (both); `tensor_parallel`,
            `gpu_memory_utilization`, `max_model_len`, `kv_cache_gib`, `enforce_eager` (vLLM).

    Raises:
        PipelineError: no such engine, no such folder, vLLM is not installed, models of several
            vocabularies, or `speculative` without a mixture of two on the HF engine.
    """
    folders, factors = _mixture(model, second, alpha, others, coefficients)
    if speculative and (name != "hf" or len(folders) != 2):
        raise PipelineError(
            f"speculative={speculative}: only the hf engine with two models drafts; set it to 0"
        )
    common = {"dtype": dtype, "batch_size": batch_size, **options}
    if name == "hf" and speculative:
        from pipeline.inference.hf.speculative import HFSpeculativeEngine

        return HFSpeculativeEngine(folders, factors, length=speculative, **common)
    if name == "hf":
        from pipeline.inference.hf.engine import HFEngine

        return HFEngine(folders, factors, **common)
    if name == "vllm":
        from pipeline.inference.vllm.engine import VLLMEngine

        return VLLMEngine(folders, factors, seed=seed, **common)
    raise PipelineError(f"engine={name}: no such engine; one of hf, vllm")


def _mixture(
    model: Path,
    second: Path | None,
    alpha: float,
    others: Sequence[Path],
    coefficients: Sequence[float] | None,
) -> tuple[list[Path], list[float]]:
    """The models and their coefficients, either way of giving them."""
    if second is not None:
        if others or coefficients is not None:
            raise PipelineError("give an engine second and alpha, or others and coefficients")
        folders = [check_model_folder(path) for path in (model, second)]
        return folders, alpha_coefficients(alpha, 2)
    folders = [check_model_folder(path) for path in (model, *others)]
    if others:
        from pipeline.inference.vocabulary import check_vocabularies

        check_vocabularies(folders)
    factors = [1.0] if coefficients is None and not others else coefficients or []
    return folders, check_coefficients(factors, len(folders))
