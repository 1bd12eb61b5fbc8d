"""TRL's trainers, imported without vLLM.

TRL imports vLLM wherever it is installed, which is half of the start of a training process, also
where transformers makes the rollouts. Import its trainers from here, and before a first engine is
started call `with_vllm`.
"""

from __future__ import annotations

import importlib
from typing import Any

_imports: Any = importlib.import_module("trl.import_utils")  # trl itself loads lazily
_is_vllm_available = _imports.is_vllm_available


_imports.is_vllm_available = lambda *_, **__: False
try:
    from trl.generation import vllm_client, vllm_generation
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer
finally:
    _imports.is_vllm_available = _is_vllm_available

__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "RLOOConfig",
    "RLOOTrainer",
    "SFTConfig",
    "SFTTrainer",
    "vllm_generation",
    "with_vllm",
]


def with_vllm() -> None:
    """Give TRL's two modules on vLLM what they left out. Classes made of them before stay valid:
    their methods look names up in the same, renewed, modules."""
    importlib.reload(vllm_client)
    importlib.reload(vllm_generation)
