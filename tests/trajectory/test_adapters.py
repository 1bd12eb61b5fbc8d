"""Adapters: exactly what PEFT merges, or a refusal that names the option or what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.trajectory.layouts import lora, open_checkpoint
from tests.trajectory.adapters import assert_close, gpt2, load, merged, move, qwen, read, trained

pytest.importorskip("peft")

CONVERTED = {"init_lora_weights": "pissa", "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen(tmp_path_factory.mktemp("qwen") / "base", layers=3)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen(tmp_path_factory.mktemp("tied") / "base", tied=True)


@pytest.fixture(scope="module")
def conv1d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2(tmp_path_factory.mktemp("gpt2") / "base")


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": r".*layers\.[02]\..*(q_proj|down_proj)$"},
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 7},
            "alpha_pattern": {r"^model.layers.0.self_attn.q_proj": 3, "q_proj": 5},
        },
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.v_proj"]},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"layers_to_transform": 0},
        {"bias": "all"},
        {"bias": "lora_only", "target_modules": ["q_proj", "k_proj"]},
        {"modules_to_save": ["norm", "lm_head"]},
        {"modules_to_save": ["self_attn"], "target_modules": ["down_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
        {"init_lora_weights": "mica"},
        {"velora_config": {"num_groups": 4}},
        {"lora_alpha": 0.5, "lora_dropout": 0.1, "revision": "main", "fan_in_fan_out": True},
    ],
    ids=str,
)
def test_an_option_that_is_read_gives_what_peft_merges(
    base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Would catch a scale, a pattern or a set of modules taken otherwise than PEFT takes it."""
    model = trained(base, **options)
    model.save_pretrained(tmp_path)
    assert_close(read(tmp_path, base), merged(model))


@pytest.mark.parametrize(
    "targets", [["c_attn"], ["c_proj", "c_attn", "c_fc"], r".*attn\.c_proj", "all-linear"], ids=str
)
def test_conv1d_is_transposed(conv1d: Path, tmp_path: Path, targets: Any) -> None:
    """GPT-2 keeps weights as [in, out], square ones as well: would catch B A for its transpose."""
    model = trained(conv1d, target_modules=targets)
    model.save_pretrained(tmp_path)
    assert_close(read(tmp_path, conv1d), merged(model))


def test_convolutions_are_merged(tmp_path: Path) -> None:
    """Kernels of more than one element, as a vision model's patches have."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    layers = {
        "one": torch.nn.Conv1d(3, 5, 4),
        "two": torch.nn.Conv2d(3, 5, (2, 3)),
        "three": torch.nn.Conv3d(3, 6, 2, bias=False),
    }
    base = tmp_path / "base"
    base.mkdir()
    module = torch.nn.ModuleDict(layers)
    save_file(dict(module.state_dict()), base / "model.safetensors")
    (base / "config.json").write_text("{}")
    model: Any = get_peft_model(
        module, LoraConfig(r=2, lora_alpha=6, target_modules=["one", "two", "three"])
    )
    move(model)
    model.save_pretrained(tmp_path / "adapter")
    assert_close(read(tmp_path / "adapter", base), dict(model.merge_and_unload().state_dict()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa.*path_initial_model"),
        ({"init_lora_weights": "pissa_niter_2"}, "init_lora_weights=pissa_niter_2"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights=olora"),
        ({"use_dora": True}, "use_dora=True: DoRA; merge it"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens.*activated"),
        ({"lora_bias": True}, "lora_bias=True.*merge it"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices.*merge it"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication.*merge it"),
        ({"target_parameters": ["self_attn.o_proj.weight"]}, "target_parameters.*merge it"),
        ({"use_qalora": True}, "use_qalora=True: not read here; merge it"),
        ({"monteclora_config": {"num_samples": 2}}, "monteclora_config"),
        ({"lora_alpha": 0}, "lora_alpha=0"),
    ],
    ids=str,
)
def test_an_option_that_is_not_understood_is_refused_by_name(
    base: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """Would catch factors added to a base that they do not belong to."""
    trained(base, **options).save_pretrained(tmp_path)
    with pytest.raises(PipelineError, match=words):
        read(tmp_path, base)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"init_lora_weights": "corda"}, "init_lora_weights=corda"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "=loftq"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights=lora_ga"),
        ({"init_lora_weights": "of_next_year"}, "init_lora_weights=of_next_year"),
        ({"option_of_next_year": 0.5}, "option_of_next_year=0.5: not read here"),
        ({"bias": "some"}, "bias='some'"),
        ({"r": 8}, "r of .* is 8, its stored factors have rank 4"),
        ({"lora_alpha": "12"}, "lora_alpha is '12'"),
        ({"lora_alpha": None}, "lora_alpha is not given"),
        ({"rank_pattern": [1]}, "rank_pattern is"),
        ({"alpha_pattern": {"q_proj": "3"}}, "alpha_pattern: 'q_proj'"),
        ({"target_modules": "*q"}, "target_modules: '\\*q' is no pattern"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform"),
        ({"peft_type": "VERA"}, "peft_type=VERA: only LORA is read"),
    ],
    ids=str,
)
def test_a_config_that_says_something_else_is_refused_by_name(
    base: Path, tmp_path: Path, written: dict[str, Any], words: str
) -> None:
    """Also where it is no adapter of this PEFT version's, or its values are of wrong types."""
    trained(base).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    with pytest.raises(PipelineError, match=words):
        read(tmp_path, base)


def test_options_that_are_off_or_of_no_effect_are_read(base: Path, tmp_path: Path) -> None:
    """An option of a later version that is off; what verl's copy of the config adds."""
    model = trained(base)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    harmless: dict[str, Any] = {
        "of_next_year": False,
        "and_this": None,
        "and_that": {},
        "peft_type": None,
    }
    verl = {"runtime_config": {"ephemeral_gpu_offload": False}, "megatron_core": "other"}
    file.write_text(json.dumps(json.loads(file.read_text()) | harmless | verl))
    assert_close(read(tmp_path, base), merged(model))


@pytest.mark.parametrize(
    "options",
    [CONVERTED, CONVERTED | {"init_lora_weights": "olora", "use_rslora": True},
     CONVERTED | {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 5}}],
    ids=str,
)  # fmt: skip
def test_a_converted_adapter_is_read(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """The way out that the refusal names."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=12, **options)
    )
    config = model.peft_config["default"]
    config.init_lora_weights = True  # as PEFT's guide says for the first adapter
    model.save_pretrained(tmp_path / "first")
    config.init_lora_weights = options["init_lora_weights"]
    move(model)
    first = str(tmp_path / "first")
    model.save_pretrained(tmp_path / "last", path_initial_model_for_weight_conversion=first)
    assert_close(read(tmp_path / "last", base), merged(model))


def test_ranks_that_were_found_from_data_are_read(base: Path, tmp_path: Path) -> None:
    """EVA gives every module its own rank and alpha."""
    from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
    from transformers import AutoModelForCausalLM

    lora_config = LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], init_lora_weights="eva",
        eva_config=EvaConfig(rho=2.0),
    )  # fmt: skip
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora_config)
    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": torch.randint(0, 40, (4, 8), generator=generator)} for _ in range(4)]
    initialize_lora_eva_weights(model, [d | {"attention_mask": torch.ones(4, 8)} for d in data])
    move(model)
    model.save_pretrained(tmp_path)
    assert_close(read(tmp_path, base), merged(model))


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
    ids=str,
)
def test_a_tied_head_is_what_the_trained_model_used(
    tied: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Head and embedding of a tied base, of which the adapter changes one: `merge_and_unload` adds
    the change to both, so the trained model's own logits are what is compared with."""
    from transformers import AutoModelForCausalLM

    model = trained(tied, **options)
    model.save_pretrained(tmp_path)
    tensors = load(lora.read(tmp_path, open_checkpoint(0, tied)).entries)
    assert "lm_head.weight" in tensors
    plain: Any = AutoModelForCausalLM.from_pretrained(tied)
    plain.lm_head.weight = torch.nn.Parameter(torch.empty(40, 16))
    plain.load_state_dict(tensors)
    ids = torch.arange(10)[None]
    assert torch.allclose(plain(ids).logits, model(ids).logits, atol=1e-5)
