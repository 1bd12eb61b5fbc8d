"""Small models of transformers, for tests on what real libraries write.

Expected values are computed on the modules in memory, apart from everything under test.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from pipeline.inference.loading import load_source
from pipeline.trajectory.combine import write
from pipeline.trajectory.plan import make_plan
from pipeline.trajectory.recipe import recipes
from pipeline.trajectory.rule import make_rule
from pipeline.trajectory.sources import Trajectory

logging.disable_progress_bar()

SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
IDS = torch.arange(3, 15)[None]

Tensors = dict[str, torch.Tensor]


def make(name: str, seed: int = 0, **values: Any) -> Any:
    """A causal language model of that family, "Qwen2" for one, with weights far from zero."""
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **values})
    torch.manual_seed(seed)
    kind = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    return moved(getattr(transformers, f"{name}{kind}")(config), seed)


def vision(name: str, **values: Any) -> Any:
    """A vision-language model: "Qwen2_5_VL", "Gemma3" or "Llava"."""
    tower: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24}
    text = dict(SMALL)
    if name == "Qwen2_5_VL":
        tower |= {"depth": 1, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [0]}
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        text |= {"rope_parameters": rope}
    else:
        tower |= {"num_hidden_layers": 2, "num_attention_heads": 2}
        tower |= {"image_size": 28, "patch_size": 14}
    if name == "Gemma3":
        text |= {"head_dim": 8}
        values = {"mm_tokens_per_image": 4, **values}
    if name == "Llava":
        text |= {"model_type": "llama"}
        tower |= {"model_type": "clip_vision_model"}
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=tower, **values)
    torch.manual_seed(0)
    return moved(getattr(transformers, f"{name}ForConditionalGeneration")(config), 1)


def moved(model: Any, seed: int, scale: float = 0.05) -> Any:
    """A copy whose parameters have all moved."""
    other = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return other


def untied(model: Any) -> Any:
    """A copy whose head is a parameter of its own, equal to the embedding."""
    config = copy.deepcopy(model.config)
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    assert other.get_output_embeddings().weight is not other.get_input_embeddings().weight
    return other


def mixed(first: Any, last: Any, alpha: float) -> Any:
    """The model with the parameters first + alpha (last - first), of the form of `last`."""
    other = copy.deepcopy(last)
    before = dict(first.named_parameters(remove_duplicate=False))
    after = dict(last.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(before[name] + alpha * (after[name] - before[name]))
    return other


def logits(model: Any) -> torch.Tensor:
    """What the model says to a fixed text."""
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def save(model: Any, folder: Path) -> Path:
    """As the library saves it."""
    model.save_pretrained(folder)
    return folder


def edited(
    folder: Path,
    out: Path,
    change: Callable[[Tensors], Mapping[str, torch.Tensor]] = dict,
    config: Callable[[dict[str, Any]], Any] | None = None,
) -> Path:
    """A copy of a model folder with other tensors or another config.json."""
    shutil.copytree(folder, out)
    tensors = change(load_file(out / "model.safetensors"))
    plain = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, out / "model.safetensors", {"format": "pt"})
    if config is not None:
        values = json.loads((out / "config.json").read_text())
        config(values)
        (out / "config.json").write_text(json.dumps(values))
    return out


def in_memory(model: Any, folder: Path, out: Path) -> Path:
    """The folder with the tensors as the module names them, as FSDP's state dicts have them."""
    return edited(folder, out, lambda _: model.state_dict())


def predicted(trajectory: Trajectory, out: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at twice the way to the last step: of the written folder, and of the recipe in memory,
    which must be the same weights."""
    last = trajectory.steps[-1]
    plan = make_plan(trajectory, make_rule("two_point"), 0, last, [2 * last], dtype="float32")
    write(plan, {2 * last: out})
    recipe = recipes([plan])[0][2 * last]
    again = type(recipe).from_plain(json.loads(json.dumps(recipe.to_plain())))
    name = json.loads((out / "config.json").read_text())["architectures"][0]
    written = getattr(transformers, name).from_pretrained(out, dtype=torch.float32)
    return logits(written), logits(load_source(again, torch.float32, torch.device("cpu")))
