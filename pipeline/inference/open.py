"""Start an engine by its name: the one place that knows which engines there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.inference.interface import Engine, check_model_folder


def open_engine(
    name: str,
    model: Path,
    *,
    second: Path | None = None,
    alpha: float = 1.0,
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
        alpha: α to begin with, for a mixture.
        dtype: "float32", "bfloat16" or "float16"; logits are mixed and scored in fp32 always.
        batch_size: most sequences decoded at once.
        seed: of the engine's own random numbers (the HF engine has none: its draws depend on
            `Sampling.seed` alone).
        speculative: for a mixture on the HF engine, tokens that the second model drafts before
            the first one reads them (see `speculative.py`); 0: both in lockstep.
        **options: of the engine: `device`, `threads` (both); `tensor_parallel`,
            `gpu_memory_utilization`, `max_model_len`, `kv_cache_gib`, `enforce_eager` (vLLM).

    Raises:
        PipelineError: no such engine, no such folder, vLLM is not installed, or `speculative`
            without a mixture on the HF engine.
    """
    if speculative and (name != "hf" or second is None):
        raise PipelineError(
            f"speculative={speculative}: only the hf engine with two models drafts; set it to 0"
        )
    folders = [check_model_folder(path) for path in (model, second) if path is not None]
    common = {"dtype": dtype, "batch_size": batch_size, **options}
    if name == "hf":
        if second is None:
            from pipeline.inference.hf.engine import HFEngine

            return HFEngine(folders, [1.0], **common)
        if speculative:
            from pipeline.inference.hf.speculative import HFSpeculativeEngine

            return HFSpeculativeEngine(
                folders[0], folders[1], alpha=alpha, length=speculative, **common
            )
        from pipeline.inference.hf.extrapolated import HFExtrapolatedEngine

        return HFExtrapolatedEngine(folders[0], folders[1], alpha=alpha, **common)
    if name == "vllm":
        from pipeline.inference.vllm.engine import VLLMEngine

        return VLLMEngine(
            folders[0], folders[1] if second else None, alpha=alpha, seed=seed, **common
        )
    raise PipelineError(f"engine={name}: no such engine; one of hf, vllm")
