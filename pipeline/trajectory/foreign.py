"""Checkpoints that are not read here: what they are, and what makes a model folder of them.

Looked at only when no reader knows a folder, by the names of the files in it.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pipeline.faults import why_missing
from pipeline.trajectory.names import parse

_DEPTH, _MOST = 3, 2000  # folders below the given one, and files, that are looked at
_WEIGHTS = re.compile(
    r"(adapter_)?config\.json|delta\.json"
    r"|.+\.(safetensors|bin|pth?|ckpt|distcp|gguf|msgpack|h5|npz|nemo)"
)
_STATE = re.compile(r"(optimizer|scheduler|rng_state.*|scaler|training_args)\.(pt|pth|bin)")
_INNER = re.compile(
    r"actor|huggingface|hf_model|lora_adapter|dist_ckpt|mp_rank_\d.*|pytorch_model_fsdp_\d+"
)
_SAVE = "and save it with save_pretrained"
# (pattern of a path below the folder, what it is, the way out); the first that matches counts
_FORMATS = (
    (
        r"(.*/)?pytorch_model_fsdp_\d+/.+\.distcp",
        "FSDP shards of accelerate (SHARDED_STATE_DICT)",
        "merge them with `accelerate merge-weights {folder} OUT`, or set "
        "fsdp_state_dict_type=FULL_STATE_DICT",
    ),
    (
        r"(.*/)?(mp_rank_\d\d(_\d+)*/(model_optim_rng|model_rng|distrib_optim)\.pt|common\.pt)",
        "a Megatron checkpoint",
        "convert it with Megatron-Bridge (AutoBridge.export_ckpt), or, of verl, with "
        "`python -m verl.model_merger merge --backend megatron`",
    ),
    (
        r"(.*/)?.+\.distcp",
        "a distributed checkpoint of torch (.distcp)",
        "convert it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
        "{folder} FILE`, load that into the model " + _SAVE,
    ),
    (r"(.*/)?(.+\.nemo|model_weights/.+|model_config\.yaml)", "a NeMo checkpoint",
     "export it with NeMo (llm.export_ckpt, target hf)"),
    (r"(.*/)?.+\.gguf", "a GGUF file",
     f"load it with from_pretrained(..., gguf_file=...) {_SAVE}"),
    (r"(.*/)?(.+\.msgpack|_CHECKPOINT_METADATA|_METADATA|manifest\.ocdbt)",
     "a checkpoint of Flax or Orbax", f"load it with from_flax=True in transformers 4 {_SAVE}"),
    (r"(.*/)?(.+\.h5|.+\.ckpt\.(index|data-.+)|saved_model\.pb)", "a TensorFlow checkpoint",
     f"load it with from_tf=True in transformers 4 {_SAVE}"),
    (r"(.*/)?.+\.npz", "arrays of numpy or MLX",
     "convert them with mlx_lm, or save the tensors as safetensors"),
    (r"(.*/)?consolidated\..*(pth|safetensors)", "a checkpoint in its maker's own format",
     "convert it with the script for its model in transformers (convert_..._weights_to_hf.py)"),
    (r"(.*/)?.+\.ckpt", "a checkpoint of Lightning",
     f"load its state_dict into the model {_SAVE}"),
    (r"(.*/)?(.+\.onnx|.+\.engine|.+\.mlmodel|.+\.plan)", "a model compiled for inference",
     "give the checkpoint that it was made from"),
    (r"(.*/)?adapter_model\.(safetensors|bin)", "an adapter without its adapter_config.json",
     "copy that file here as well"),
    (r"(.*/)?mp_rank_\d\d_model_states\.pt", "a DeepSpeed checkpoint without *_optim_states.pt",
     f"copy those as well, or load its module {_SAVE}"),
    (r"(.*/)?.+\.safetensors", "safetensors under another name",
     "name them model.safetensors, or as the index says"),
    (r"(.*/)?.+\.(incomplete|part|partial|tmp|aria2|crdownload)", "an unfinished download or save",
     "finish it, or leave this step out"),
    (rf"(.*/)?({_STATE.pattern})",
     "a trainer's state without weights", "the save was not finished: leave this step out"),
    (r"(.*/)?.+\.(pt|pth|bin|pkl)", "torch files of a layout that is not known",
     f"load them into the model {_SAVE}"),
)  # fmt: skip


def describe(folder: Path) -> str:
    """Why no reader knows the folder, and what to do."""
    paths = _below(folder)
    relative = sorted(str(path.relative_to(folder)) for path in paths)
    for path in paths:
        if path.is_symlink() and not path.exists():
            return f"{path.relative_to(folder)} {why_missing(path)}; copy or download it again"
    for pattern, what, way in _FORMATS:
        found = next((name for name in relative if re.fullmatch(pattern, name)), None)
        if found is not None:
            way = way.replace("{folder}", str((folder / found).parent))
            return f"{what} ({found}), which is not read here; {way}"
    steps = sorted(p.name for p in folder.iterdir() if p.is_dir() and parse(p.name))
    if steps:
        return f"it is the folder of a run ({steps[0]}, ...); give one of its checkpoints"
    if not relative:
        return "it is empty: an unfinished save or copy; leave this step out"
    if "config.json" in relative:
        return "it has a config.json only; copy the weights as well"
    return "read are HF safetensors or .bin, verl FSDP, DeepSpeed ZeRO, PEFT LoRA, deltas"


def looks_like_checkpoint(folder: Path) -> bool:
    """True if there are weights or a model's config in it, or where trainers put them below it."""
    try:
        inside = list(folder.iterdir())
    except PermissionError:
        return False
    return any(
        looks_like_checkpoint(path)
        if path.is_dir()
        else _WEIGHTS.fullmatch(path.name) and not _STATE.fullmatch(path.name)
        for path in inside
        if not path.is_dir() or _INNER.fullmatch(path.name)
    )


def _below(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Files in the folder and some levels below it, in order; no checkpoints within it."""
    found: list[Path] = []
    inner: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            (inner if path.is_dir() else found).append(path)
    except PermissionError:
        return []
    if depth:
        below = (_below(path, depth - 1) for path in inner if not parse(path.name))
        found += itertools.chain.from_iterable(below)
    return found[:_MOST]
