"""What an output gets beside its weights: would catch a tokenizer put together from two folders, a
trainer's file in a model, and an output whose tokenizer is not that of its source."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.trajectory.export import export
from pipeline.trajectory.sources import Trajectory, discover
from tests.trajectory.real import edited, make, moved, save

CHAT = [{"role": "user", "content": "2 + 3?"}]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
ROWS = 320  # of the embedding
# What trainers and other frameworks leave in a model's folder.
LITTER = (
    *("flax_model.msgpack", "tf_model.h5", "model.onnx", "model.gguf", "rust_model.ot"),
    *("pytorch_model.bin", "consolidated.00.pth", "model.ckpt", "adapter_model.bin"),
    *("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_0.pth", "training_args.bin"),
    *("trainer_state.json", "events.out.tfevents.17.host", "all_results.json", "log.jsonl"),
    *("__0_0.distcp", ".metadata", "latest", "zero_to_fp32.py", "train.py", "README.md"),
    *("model_world_size_2_rank_0.pt", "wandb-summary.json", ".gitattributes", "done.json"),
)


def tokenizer(added: int = 0, template: str | None = PLAIN, **values: Any) -> Any:
    """Bytes as tokens, with `<pad>` and `<eos>`, and as many further special tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", *(f"<|{i}|>" for i in range(added))]
    made.train_from_iterator(
        [""],
        trainers.BpeTrainer(
            vocab_size=256 + len(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=special,
            show_progress=False,
        ),
    )
    tokens = {"eos_token": "<eos>", "pad_token": "<pad>", **values}
    found = PreTrainedTokenizerFast(tokenizer_object=made, **tokens)
    found.chat_template = template
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    return make("Llama", vocab_size=ROWS)


@pytest.fixture
def base(tmp_path: Path, model: Any) -> Path:
    folder = save(model, tmp_path / "base")
    tokenizer().save_pretrained(folder)
    GenerationConfig(eos_token_id=[1, 7], temperature=0.6, do_sample=True).save_pretrained(folder)
    (folder / "LICENSE").write_text("as it was given")
    (folder / "README.md").write_text("of the base")
    return folder


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def exported(trajectory: Trajectory, out: Path) -> Path:
    export(trajectory, trajectory.steps[-1], out)
    return out


def assert_same_tokenizer(found: Path, source: Any) -> None:
    made = AutoTokenizer.from_pretrained(found)
    for key in ("eos_token", "pad_token", "bos_token", "eos_token_id", "pad_token_id"):
        assert getattr(made, key) == getattr(source, key), key
    assert len(made) == len(source)
    assert made("12 + 3 é")["input_ids"] == source("12 + 3 é")["input_ids"]
    said = [t.apply_chat_template(CHAT, tokenize=False) for t in (made, source)]
    assert said[0] == said[1]


def test_a_checkpoints_own_set_and_no_litter(tmp_path: Path, model: Any, base: Path) -> None:
    """Vocabulary, template and special tokens of the run; nothing that only the base has."""
    step = save(moved(model, 2), tmp_path / "run/step_10")
    (step / "generation_config.json").unlink()
    own = tokenizer(3, TURNS, pad_token="<|1|>")
    own.chat_template = {"default": TURNS, "tools": "{{ tools }}" + TURNS}
    own.save_pretrained(step)
    shutil.copytree(step / "additional_chat_templates", base / "additional_chat_templates")
    (base / "additional_chat_templates/other.jinja").write_text("of the base")
    (base / "merges.txt").write_text("of the base")
    for name in LITTER:
        (step / name).write_text("x")
    out = exported(discover(tmp_path / "run", base), tmp_path / "out")
    assert files(out) == {
        *("config.json", "model.safetensors", "extrapolation.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        "additional_chat_templates/tools.jinja",
    }
    assert_same_tokenizer(out, AutoTokenizer.from_pretrained(step))
    record = json.loads((out / "extrapolation.json").read_text())
    assert (record["tokenizer"], record["config"]) == (str(step), str(step))


def test_without_a_tokenizer_in_the_run_all_is_the_bases(
    tmp_path: Path, model: Any, base: Path
) -> None:
    """A template alone is no tokenizer, and generation settings go with the tokens they name."""
    step = save(moved(model, 2), tmp_path / "run/step_10")
    (step / "chat_template.jinja").write_text(TURNS)
    (step / "tokenizer_config.json").write_text("{}")
    out = exported(discover(tmp_path / "run", base), tmp_path / "out")
    assert_same_tokenizer(out, AutoTokenizer.from_pretrained(base))
    settings = json.loads((out / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [1, 7]
    assert "LICENSE" not in files(out)  # the configuration is the run's


def test_an_adapters_tokenizer(tmp_path: Path, model: Any, base: Path) -> None:
    """As TRL saves it: tokens and template in the adapter's folder, the config in the base."""
    adapted: Any = get_peft_model(
        type(model).from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"])
    )
    step = tmp_path / "run/step_10"
    adapted.save_pretrained(step)
    own = tokenizer(3, TURNS, eos_token="<|2|>")
    own.save_pretrained(step)
    out = exported(discover(tmp_path / "run", base), tmp_path / "out")
    assert_same_tokenizer(out, own)
    assert files(out) >= {"LICENSE", "config.json"}
    assert not files(out) & {"README.md", "adapter_config.json", "generation_config.json"}


def test_a_tokenizer_below_the_checkpoint(tmp_path: Path, model: Any, base: Path) -> None:
    """verl keeps it in `huggingface`, beside the shards or the model."""
    actor = tmp_path / "run/global_step_10/actor"
    save(moved(model, 2), actor / "hf_model")
    own = tokenizer(2, TURNS)
    own.save_pretrained(actor / "huggingface")
    out = exported(discover(tmp_path / "run", base), tmp_path / "out")
    assert_same_tokenizer(out, own)


def test_models_own_code_is_taken_as_far_as_it_is_named(
    tmp_path: Path, model: Any, base: Path
) -> None:
    """What auto_map names and what that imports; no script that lies beside it."""
    step = save(moved(model, 2), tmp_path / "run/step_10")
    config = json.loads((step / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
        "AutoModel": "somebody/else--modeling_else.Model",
    }
    (step / "config.json").write_text(json.dumps(config))
    (step / "configuration_own.py").write_text("import json\n")
    (step / "modeling_own.py").write_text("from .configuration_own import X\nfrom .ops import f\n")
    for name in ("ops.py", "modeling_else.py", "zero_to_fp32.py"):
        (step / name).write_text("")
    out = exported(discover(tmp_path / "run", base), tmp_path / "out")
    scripts = {name for name in files(out) if name.endswith(".py")}
    assert scripts == {"configuration_own.py", "modeling_own.py", "ops.py"}


def test_another_tokenizer_than_the_sources_is_refused(
    tmp_path: Path, model: Any, base: Path
) -> None:
    """The class that reads the files hangs on config.json: with the base's it adds a token."""
    qwen = make("Qwen2", vocab_size=ROWS)
    save(qwen, base)
    run = edited(  # under other names, so that the base's configuration is taken
        save(moved(qwen, 2), tmp_path / "saved"),
        tmp_path / "run/step_10",
        lambda tensors: {f"_orig_mod.{name}": t for name, t in tensors.items()},
        lambda values: values.update(model_type="llama"),
    )
    tokenizer().save_pretrained(run)
    trajectory = discover(tmp_path / "run", base)
    with pytest.raises(PipelineError, match=r"the tokenizer differs from that of .*step_10: "):
        exported(trajectory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_larger_than_the_embedding_is_said(
    tmp_path: Path, model: Any, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    step = save(moved(model, 2), tmp_path / "run/step_10")
    tokenizer(ROWS - 256).save_pretrained(step)
    with caplog.at_level(logging.WARNING):
        exported(discover(tmp_path / "run", base), tmp_path / "out")
    assert f"has {ROWS + 2} tokens, the embedding {ROWS} rows" in caplog.text


def test_a_tokenizer_that_cannot_be_read_is_copied_and_said(
    tmp_path: Path, model: Any, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One with code of its own, say: the tokenizers library raises a plain Exception for some."""
    step = save(moved(model, 2), tmp_path / "run/step_10")
    broken = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}}}
    broken["model"] |= {"merges": [["x", "y"]]}  # type: ignore[operator]
    (step / "tokenizer.json").write_text(json.dumps(broken))
    with caplog.at_level(logging.WARNING):
        out = exported(discover(tmp_path / "run", base), tmp_path / "out")
    assert "the tokenizer was copied as it is, not checked" in caplog.text
    assert json.loads((out / "tokenizer.json").read_text()) == broken


def test_another_template_is_another_output(tmp_path: Path, model: Any, base: Path) -> None:
    """A finished folder is not kept when the files beside its weights are others."""
    step = save(moved(model, 2), tmp_path / "run/step_10")
    tokenizer().save_pretrained(step)
    trajectory = discover(tmp_path / "run", base)
    out = exported(trajectory, tmp_path / "out")
    before = (out / "model.safetensors").stat().st_ino
    exported(trajectory, out)
    assert (out / "model.safetensors").stat().st_ino == before
    (step / "chat_template.jinja").write_text(TURNS)
    exported(trajectory, out)
    assert (out / "chat_template.jinja").read_text() == TURNS
