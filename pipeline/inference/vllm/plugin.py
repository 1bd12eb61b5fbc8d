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
from pipeline.inference.device import ADAPT, OURS
from pipeline.processes import watch_parent

ARCHITECTURE = "LogitExtrapolatedForCausalLM"
CLASS = "pipeline.inference.vllm.mixture:LogitExtrapolatedForCausalLM"
MEMBERS = 8  # letters that `vllm.mixture` has for their names
UNUSED = {  # keys of a configuration that decide nothing in the forward pass
    *(
        "_name_or_path",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "use_cache",
    ),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "attention_dropout"),
    *("max_position_embeddings", "max_window_layers", "id2label", "label2id"),
}


def register() -> None:
    """Make the mixture architecture known to vLLM (again and again does no harm).

    The processes of our own engines end with the one that asked for them: vLLM's engine process
    does not look whether it is still there, and would keep its GPU. On the CPU vLLM is also adapted
    to it, see `vllm.cpu`.
    """
    from vllm import ModelRegistry

    _hide_from_vllm()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, CLASS)
    if os.environ.get(OURS) == "1":
        watch_parent()
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


def _check_configurations(folders: Sequence[Path]) -> None:
    """Refuse members that compute otherwise than the first: in a key that their architecture has,
    defaults filled in (trainers add keys of their own, which nobody reads).

    Raises:
        PipelineError: names the first key that differs.
    """
    from transformers import AutoConfig

    first, *others = [AutoConfig.from_pretrained(one, local_files_only=True) for one in folders]
    known = type(first)().to_dict()
    for folder, other in zip(folders[1:], others, strict=True):
        for key in sorted(known.keys() - UNUSED):
            here, there = (getattr(config, key, None) for config in (other, first))
            if here != there:
                raise PipelineError(
                    f"{folder}: config.json has {key} {here}, and {folders[0]} has {there}; vLLM "
                    "mixes models of one architecture and size; use engine=hf for others"
                )


def mixture_overrides(
    folders: Sequence[Path], coefficients: Sequence[float], share: bool = True
) -> dict[str, Any]:
    """`hf_overrides` that make vLLM serve Σ c_i l_i of checkpoint folders.

    vLLM builds every member by the first one's configuration, so they must not differ in it: not
    in size, and not in what no tensor's shape tells, such as the base of the rotations.

    Args:
        folders: models of one configuration; the first is the model that vLLM is started on.
        coefficients: of their logits; [1 - α, α] for logit extrapolation.
        share: hold weights that are equal in several checkpoints once.

    Raises:
        PipelineError: the checkpoints' configurations differ, or there are too many.
    """
    if len(folders) > MEMBERS:
        raise PipelineError(f"{len(folders)} models in a mixture: vLLM takes {MEMBERS} at most")
    configs = [read_json(folder / "config.json") for folder in folders]
    for key in ("architectures", "vocab_size"):
        for folder, config in zip(folders, configs, strict=True):
            if config.get(key) != configs[0].get(key):
                raise PipelineError(
                    f"{folder}: {key} {config.get(key)} differs from {configs[0].get(key)} of "
                    f"{folders[0]}; vLLM mixes models of one architecture and size; use "
                    "engine=hf for others"
                )
    _check_configurations(folders)
    return {
        "architectures": [ARCHITECTURE],
        "mixture": {
            "architectures": configs[0]["architectures"],
            "folders": [str(folder) for folder in folders],
            "coefficients": list(coefficients),
            "share": share,
        },
    }
