"""The engines that a run samples with, and how it draws."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.hardware import gpus
from pipeline.stages.base import Context

if TYPE_CHECKING:
    from pipeline.inference.interface import Engine, Sampling
    from pipeline.inference.parallel import Draw
    from pipeline.inference.run import PromptItem
    from pipeline.stages.candidates import Candidate


def sampling(context: Context) -> Sampling:
    """How evaluation draws its responses."""
    from pipeline.inference.interface import Sampling

    evaluate = context.config.evaluate
    return Sampling(
        temperature=evaluate.temperature,
        top_p=evaluate.top_p,
        max_tokens=evaluate.max_tokens,
        n=evaluate.samples_per_problem,
        seed=context.config.seed,
    )


def engine_arguments(context: Context, model: Path, second: Path | None = None) -> dict[str, Any]:
    """The configured engine on a checkpoint, or on the two of a mixture: for `open_engine`."""
    engine, config = context.config.engine, context.config
    arguments: dict[str, Any] = {
        "name": engine.name,
        "model": str(model),
        "second": None if second is None else str(second),
        "dtype": config.model.dtype,
        "batch_size": engine.batch_size,
        "seed": config.seed,
    }
    if engine.name == "vllm":
        arguments |= {
            "tensor_parallel": engine.tensor_parallel,
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "max_model_len": engine.max_model_len,
            "enforce_eager": engine.enforce_eager,
            "kv_cache_gib": engine.kv_cache_gib,
        }
    return arguments


def start_engine(context: Context, model: Path) -> Engine:
    """The configured engine on a checkpoint, in this process, or as many as `engine.replicas`."""
    from pipeline.inference.crew import EngineCrew
    from pipeline.inference.open import open_engine

    arguments = engine_arguments(context, model)
    name = arguments.pop("name")
    del arguments["model"], arguments["second"]
    size = replicas(context)
    if size > 1:
        return EngineCrew(size, name, model, **arguments)
    return open_engine(name, model, **arguments)


def sample(
    context: Context,
    draws: Sequence[Draw],
    candidates: Sequence[Candidate],
    engine: dict[str, Any],
    items: Sequence[PromptItem],
) -> int:
    """Append what the files lack of all candidates' responses; returns the rows added.

    Rows say the engine and dtype that made them; the candidates' fingerprints hang on both.

    Args:
        draws: how to draw, each with the file that its rows go to.
        candidates: models of one engine: their weights are exchanged in place, or their alpha set.
        engine: from `engine_arguments`; `engine.replicas` of them share the problems.
        items: the problems (`problems.encode_sets`).
    """
    from pipeline.inference.parallel import Job, Work, run_local

    made_by = {"engine": engine["name"], "dtype": engine["dtype"]}
    first: dict[str, Candidate] = {}  # of a model with two names
    for candidate in candidates:
        first.setdefault(candidate.fingerprint, candidate)
    jobs = [
        Job(
            source=candidate.source,
            model=candidate.name,
            kind=candidate.kind,
            fingerprint=candidate.fingerprint,
            extra={**candidate.extra, **made_by},
            alpha=candidate.extra["alpha"] if candidate.source is None else None,
        )
        for candidate in first.values()
    ]
    work = Work(engine, jobs, items, draws)
    return run_local(work, replicas(context))


def check_engine(context: Context) -> str:
    """The engine in words.

    Raises:
        PipelineError: vLLM is asked for and not installed.
    """
    name = context.config.engine.name
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise PipelineError(
            "engine=vllm: vLLM is not installed; pip install vllm==0.31.0 (CPU: make setup), "
            "or use engine=hf"
        )
    count, each = replicas(context), _devices(context)
    found = gpus() if count > 1 or each > 1 else 0
    if 0 < found < count * each:
        raise PipelineError(
            f"engine.replicas={count}: {count} engines of {each} GPUs need {count * each}, "
            f"{found} are visible; set engine.replicas=null to use them all"
        )
    return f"{name} engine" if count == 1 else f"{count} {name} engines"


def replicas(context: Context) -> int:
    """How many engines share the problems: as given, or as many as the GPUs are enough for."""
    given = context.config.engine.replicas
    return given if given is not None else max(1, gpus() // _devices(context))


def _devices(context: Context) -> int:
    """The GPUs of one engine."""
    engine = context.config.engine
    return engine.tensor_parallel if engine.name == "vllm" else 1
