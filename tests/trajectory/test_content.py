"""Model files: what is not there, or lies in another file than the index says, is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory.recipe_weights import checkpoint_tensors
from tests.trajectory.adapters import assert_close, read
from tests.trajectory.pico import Tensors, random_tensors, write_model

TENSORS = {name: tensor.bfloat16() for name, tensor in random_tensors(0).items()}
FLOATS = {name: tensor.float() for name, tensor in TENSORS.items()}
EMPTY = {name: tensor.new_zeros(0) for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("given", [False, True])
def test_a_model_without_values_is_refused(tmp_path: Path, given: bool) -> None:
    """ZeRO-3 saved without gathering: would catch the base passed off as the trained model."""
    base = write_model(tmp_path / "base", TENSORS) if given else None
    one = TENSORS | {"model.norm.weight": torch.zeros(0)}
    for name, tensors, words in (
        ("none", {}, "no tensors in it"),
        ("all", EMPTY, "no elements, as in 11 tensors.*stage3_gather_16bit_weights_on_model_save"),
        ("one", one, r"model\.norm\.weight: no elements, as in 1 tensors.*zero_to_fp32\.py"),
    ):
        folder = write_model(tmp_path / name, tensors)
        with pytest.raises(PipelineError, match=rf"{name}/model\.safetensors.*{words}"):
            read(folder, base)
    (tmp_path / "one/model.safetensors").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"model\.safetensors: truncated .*0 bytes"):
        read(tmp_path / "one", base)


def test_a_tensor_that_is_empty_in_the_base_may_be_empty(tmp_path: Path) -> None:
    tensors = TENSORS | {"model.unused.weight": torch.zeros(0, 4)}
    base = write_model(tmp_path / "base", tensors)
    assert read(write_model(tmp_path / "step_1", tensors), base).keys() == tensors.keys()


def test_the_refusal_names_zero_files_beside(tmp_path: Path) -> None:
    """transformers leaves such a file beside the whole state that DeepSpeed saved."""
    folder = write_model(tmp_path, EMPTY)
    (folder / "global_step40").mkdir()
    (folder / "global_step40/zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(PipelineError, match=r"global_step40: name that folder in snapshot\.check"):
        read(folder, None)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "no tensors in it"),
        ({"model": TENSORS, "epoch": 3}, "tensors lie under 'model'"),
        ({"state_dict": TENSORS}, "tensors lie under 'state_dict'"),
        (TENSORS | {"optimizer": {"step": torch.ones(3)}}, "tensors lie under 'optimizer'"),
        (EMPTY, "no elements, as in 11 tensors"),
        ([TENSORS], "not a state dict"),
        ({n: t.to("meta") for n, t in TENSORS.items()}, "embed_tokens.weight is stored as .*meta"),
        (TENSORS | {"s": torch.eye(3).to_sparse()}, "s is stored as .*sparse"),
        (TENSORS | {"c": torch.ones(3, dtype=torch.complex64)}, "ComplexFloatStorage"),
        (TENSORS | {"w": torch.ones(3, 3).to(torch.float8_e5m2)}, "tensor w .*a quantised model"),
    ],
)
def test_a_torch_file_that_is_no_flat_state_dict_is_refused(
    tmp_path: Path, state: Any, words: str
) -> None:
    """Would catch tensors that are left out without a word."""
    folder = write_model(tmp_path, TENSORS)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(PipelineError, match=rf"pytorch_model\.bin.*{words}"):
        read(folder, None)


def test_what_is_no_tensor_in_a_torch_file_is_passed_over(tmp_path: Path) -> None:
    folder = write_model(tmp_path, TENSORS)
    (folder / "model.safetensors").unlink()
    other = {"epoch": 3, "device": torch.device("cpu"), "dtype": torch.bfloat16, "none": None}
    torch.save(TENSORS | other, folder / "pytorch_model.bin")
    assert_close(read(folder, None), FLOATS)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """A change of the index's weight_map."""

    def edit(folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        value = json.loads(index.read_text())
        change(value["weight_map"])
        index.write_text(json.dumps(value))

    return edit


def second_set(folder: Path) -> None:
    other = write_model(folder.parent / "other", random_tensors(9), shards=2)
    for shard in other.glob("model-*"):
        shutil.copy(shard, folder)


def single(folder: Path, tensors: Tensors = TENSORS) -> None:
    other = write_model(folder.parent / "other", tensors)
    shutil.copy(other / "model.safetensors", folder)


def unindexed(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


NORM = "model.norm.weight"
FIRST, SECOND = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited(lambda m: m.update({"model.new.weight": FIRST})), r"model\.new\.weight is missing"),
        (edited(lambda m: m.pop(NORM)), r"tensor model\.norm\.weight is not in the index"),
        (edited(lambda m: m.update({NORM: SECOND})), r"lies in .*00002.* by the index"),
        (edited(lambda m: m.clear()), "no weight_map in it"),
        (edited(lambda m: m.update({NORM: 3})), "no weight_map in it"),
        (lambda folder: (folder / FIRST).unlink(), rf"{FIRST}: no such file; copy the missing"),
        (unindexed, r"shards without model\.safetensors\.index\.json \(.*00001-of-00003"),
        (
            lambda folder: [change(folder) for change in (second_set, unindexed)],
            "00001-of-00002.* and .*00001-of-00003.*; copy the index of the set that is meant",
        ),
        (
            lambda folder: single(folder, random_tensors(9)),
            r"model\.safetensors beside the shards model-00001-of-00003.*two models in one folder",
        ),
        (
            lambda folder: [change(folder) for change in (single, unindexed)],
            "beside the shards model-00001",
        ),
    ],
)
def test_shards_that_leave_open_what_is_meant_are_refused(
    tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    """Would catch tensors of two saves mixed, or one save taken for another."""
    folder = write_model(tmp_path / "step_1", TENSORS, shards=3)
    change(folder)
    with pytest.raises(PipelineError, match=words):
        read(folder, None)


@pytest.mark.parametrize(
    "change",
    [
        second_set,  # the index names one set
        single,  # the same model twice
        lambda folder: torch.save(random_tensors(9), folder / "pytorch_model.bin"),
        lambda folder: shutil.copy(folder / FIRST, folder / "consolidated.safetensors"),
    ],
)
def test_what_from_pretrained_reads_is_read(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    """And an engine that loads the folder gets the same: would catch a glob over all files."""
    folder = write_model(tmp_path / "step_1", TENSORS, shards=3)
    change(folder)
    assert_close(read(folder, None), FLOATS)
    loaded = {name: tensor.float() for name, tensor in checkpoint_tensors(folder)}
    assert_close(loaded, FLOATS)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path, TENSORS)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(PipelineError, match=r"model\.safetensors: no such file"):
        read(folder, None)


def test_an_index_of_a_single_file_is_no_second_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path, TENSORS)
    index = {"weight_map": dict.fromkeys(TENSORS, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_close(read(folder, None), FLOATS)
