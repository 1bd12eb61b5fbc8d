"""Start an engine by its name: the one place that knows which engines there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.inference.interface import Engine, check_coefficients, check_model_folder


def open_engine(
    name: str,
    *models: Path,
    coefficients: Sequence[float] | None = None,
    dtype: str = "float32",
    batch_size: int = 256,
    seed: int = 0,
    speculative: int = 0,
    **options: Any,
) -> Engine:
    """Start an engine on a checkpoint folder, or on several whose logits it adds at every token.

    Args:
        name: "hf" or "vllm".
        models: checkpoint folders of one vocabulary and any size (vLLM: one size).
        coefficients: c_i of the mixture Σ c_i l_i to begin with, one for each model; [1 - α, α] for
            l0 + α (l1 - l0) (arXiv 2601.04537, logit extrapolation). None: the last model alone.
        dtype: "float32", "bfloat16" or "float16"; logits are mixed and scored in fp32 always.
        batch_size: most sequences decoded at once.
        seed: of the engine's own random numbers (the HF engine has none: its draws depend on
            `Sampling.seed` alone).
        speculative: for a mixture of two on the HF engine, tokens that the second model drafts
            before the first one reads them (see `speculative.py`); 0: all in lockstep.
        **options: of the engine: `device`, `threads`, `tokenizer` (folder of the one that decodes;
            default the last model's), `ends` (ids of the tokens that end a response, whatever the
            models' files name; default the last model's) (both); `tensor_parallel`,
            `gpu_memory_utilization`, `max_model_len`, `kv_cache_gib`, `enforce_eager` (vLLM).

    Raises:
        PipelineError: no such engine, no such folder, vLLM is not installed, models of several
            vocabularies, or `speculative` without a mixture of two on the HF engine.
    """
    folders = [check_model_folder(path) for path in models]
    if len(folders) > 1:
        from pipeline.inference.vocabulary import check_vocabularies

        check_vocabularies(folders)
    last = [0.0] * (len(folders) - 1) + [1.0]
    factors = check_coefficients(last if coefficients is None else coefficients, len(folders))
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
