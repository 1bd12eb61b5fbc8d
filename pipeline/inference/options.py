"""How the engines of a run are configured, and how many of them this machine has room for."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import EngineConfig
from pipeline.errors import PipelineError
from pipeline.hardware import device_names, gpus


@dataclass(frozen=True)
class EngineOptions:
    """The configured engine, whatever checkpoint it is started on.

    dtype: of weights and activations; seed: of the engine's own random numbers.
    """

    config: EngineConfig
    dtype: str
    seed: int

    def arguments(self, *models: Path) -> dict[str, Any]:
        """The engine on a checkpoint, or on those of a mixture: for `parallel.start`."""
        engine = self.config
        arguments: dict[str, Any] = {
            "name": engine.name,
            "models": [str(model) for model in models],
            "dtype": self.dtype,
            "batch_size": engine.batch_size,
            "seed": self.seed,
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

    @property
    def replicas(self) -> int:
        """How many engines share the problems: as given, or as the GPUs are enough for."""
        given = self.config.replicas
        return given if given is not None else max(1, _visible() // self._devices)

    @property
    def _devices(self) -> int:
        """The GPUs of one engine."""
        return self.config.tensor_parallel if self.config.name == "vllm" else 1

    def check(self) -> str:
        """The engine in words.

        Raises:
            PipelineError: vLLM is asked for and not installed, or there are too few GPUs.
        """
        name = self.config.name
        if name == "vllm" and importlib.util.find_spec("vllm") is None:
            raise PipelineError(
                "engine=vllm: vLLM is not installed; pip install vllm==0.31.0 (CPU: make setup), "
                "or use engine=hf"
            )
        count, each = self.replicas, self._devices
        found = _visible() if count > 1 or each > 1 else 0
        if 0 < found < count * each:
            raise PipelineError(
                f"engine.replicas={count}: {count} engines of {each} GPUs need {count * each}, "
                f"{found} are visible; set engine.replicas=null to use them all"
            )
        return f"{name} engine" if count == 1 else f"{count} {name} engines"


def _visible() -> int:
    """The GPUs that engines can be given."""
    return len(device_names(gpus()))
