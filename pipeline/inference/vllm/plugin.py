"""What tells vLLM about this project's model class.

`register` is the entry point of the group `vllm.general_plugins`: vLLM calls it in each of its
processes, so after an ordinary `pip install` the architecture below is known to `vllm.LLM` and to
`vllm serve` alike. A mixture is a checkpoint folder with two overrides of its config: the
architecture, and which checkpoints with which coefficients. This module imports no vLLM at the
top, so that plugin discovery stays cheap.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json
from pipeline.errors import PipelineError
from pipeline.inference.device import ADAPT

ARCHITECTURE = "LogitExtrapolatedForCausalLM"
CLASS = "pipeline.inference.vllm.mixture:LogitExtrapolatedForCausalLM"


def register() -> None:
    """Make the mixture architecture known to vLLM (again and again does no harm).

    In the processes of an engine on the CPU it also adapts vLLM to it, see `vllm.cpu`.
    """
    from vllm import ModelRegistry

    _hide_from_vllm()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, CLASS)
    if os.environ.get(ADAPT) == "1":
        from pipeline.inference.vllm.cpu import adapt

        adapt()


def _hide_from_vllm() -> None:
    """Let vLLM's workers start where numba was imported before them (by a user's script, say).

    vLLM 0.31 asks every object in every module for `__dict__`; llvmlite's handle of its library
    answers any name with a C function, and the worker dies of it.
    """
    ffi: Any = sys.modules.get("llvmlite.binding.ffi")
    if ffi is None or not hasattr(ffi.lib, "__dict__"):
        return
    handle = type(ffi.lib)
    find = handle.__getattr__

    def find_function(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return find(self, name)

    handle.__getattr__ = find_function


def mixture_overrides(
    folders: Sequence[Path], coefficients: Sequence[float], share: bool = True
) -> dict[str, Any]:
    """`hf_overrides` that make vLLM serve Σ c_i l_i of checkpoint folders.

    Args:
        folders: checkpoints of one run; the first is the model that vLLM is started on.
        coefficients: of their logits; [1 - α, α] for logit extrapolation.
        share: hold weights that are equal in several checkpoints once.

    Raises:
        PipelineError: the checkpoints' architectures or vocabularies differ.
    """
    configs = [read_json(folder / "config.json") for folder in folders]
    for key in ("architectures", "vocab_size"):
        for folder, config in zip(folders, configs, strict=True):
            if config.get(key) != configs[0].get(key):
                raise PipelineError(
                    f"{folder}: {key} {config.get(key)} differs from {configs[0].get(key)} of "
                    f"{folders[0]}; logits can be mixed only between checkpoints of one run"
                )
    return {
        "architectures": [ARCHITECTURE],
        "mixture": {
            "architectures": configs[0]["architectures"],
            "folders": [str(folder) for folder in folders],
            "coefficients": list(coefficients),
            "share": share,
        },
    }
