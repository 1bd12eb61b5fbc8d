"""Refuse quantised models: codes and scales are no weights.

θ0 + α (θ1 - θ0) holds for the weights that codes and scales stand for, not for either of them.
Dequantised copies whose config.json still has its `quantization_config` are plain and are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import read_object
from pipeline.errors import PipelineError
from pipeline.trajectory.entries import Entry

KEYS = ("quantization_config", "compression_config")
# Names that only quantised models have: GPTQ and AWQ, compressed-tensors and fp8, bitsandbytes,
# HQQ, QuIP.
MARK = re.compile(
    r".*[._](qweight|qzeros|weight_scale(_inv|_2)?|weight_packed|weight_zero_point|absmax|quant_map"
    r"|quant_state\.\w+|SCB|W_q|Qidxs|bitmask)"
)
# Names that plain models may have, too; marks beside a config that says quantised.
WEAK_MARK = re.compile(
    r".*[._](scales?|zeros|g_idx|codes|codebooks|centroids|compressed|input_scale)"
)
CACHE_SCALES = ("q_scale", "k_scale", "v_scale")  # of the fp8 cache beside plain weights
SMALL = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32)
# Buffers of plain models that are integer matrices: masks, positions, tables of indices.
BUFFER = re.compile(
    r"(.*_)?(bias|masks?|ids?|ind(ex|ices)|positions?|table|counts?|rng|state|order|tid2eid)"
)
REMEDY = (
    "dequantise it to bf16 first (transformers: model.dequantize(), then save_pretrained) and give "
    "that folder; an adapter trained on it is added to those weights"
)


def check_plain(source: Path, config_folder: Path, entries: Mapping[str, Entry]) -> None:
    """Raise if tensors are codes or scales of a quantised model.

    Args:
        source: the checkpoint, to name.
        config_folder: with the model's config.json.
        entries: its tensors.

    Raises:
        PipelineError: names the first such tensor, the method and the way out.
    """
    method = quantisation(config_folder)
    for name, entry in entries.items():
        last = name.rsplit(".", 1)[-1]
        codes = len(entry.shape) > 1 and entry.dtype in SMALL and not BUFFER.fullmatch(last)
        codes |= len(entry.shape) > 1 and last == "weight" and not entry.dtype.is_floating_point
        small = entry.dtype.is_floating_point and entry.dtype.itemsize < 2
        weak = method is not None and last not in CACHE_SCALES and WEAK_MARK.fullmatch(name)
        mark = MARK.fullmatch(name) or weak
        if codes or small or mark:
            path = min(entry.paths, default=source)
            dtype = str(entry.dtype).removeprefix("torch.")
            raise PipelineError(
                f"{path}: tensor {name} ({dtype} {list(entry.shape)}): a quantised model"
                f"{f' ({method})' if method else ''}; {REMEDY}"
            )


def quantisation(config_folder: Path) -> str | None:
    """How config.json says that the model is quantised; None if it does not."""
    config = read_object(config_folder / "config.json")
    sections = (config, config.get("text_config") or {})
    found = [section[key] for section in sections for key in KEYS if section.get(key)]
    return _name(found[0]) if found else None


def _name(quantisation: Any) -> str:
    if not isinstance(quantisation, dict):
        return str(quantisation)
    bits = next((b for b in (4, 8) if quantisation.get(f"load_in_{b}bit")), None)
    method = str(quantisation.get("quant_method", KEYS[0]))
    return method if bits is None else f"{method}, {bits} bits"
