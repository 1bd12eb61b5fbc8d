"""Formats that are not read: the message says what a folder is and what converts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from pipeline.errors import PipelineError
from pipeline.trajectory.layouts import open_checkpoint
from tests.trajectory.pico import random_tensors, write_model


def refusal(folder: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        open_checkpoint(10, folder)
    assert "\n" not in str(caught.value)
    assert f"step 10: {folder}: no weights of a known layout in it" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("inner", "converter"),
    [
        (".", "torch.distributed.checkpoint.format_utils dcp_to_torch {}"),
        ("actor/dist_ckpt", "format_utils dcp_to_torch {}"),
        ("pytorch_model_fsdp_0", "accelerate merge-weights {} OUT"),
    ],
)
def test_torch_distributed_checkpoints(tmp_path: Path, inner: str, converter: str) -> None:
    """Catches "no weights" for what FSDP and torchtitan write, as torch itself writes it here."""
    where = tmp_path / "step" / inner
    dcp.save({"w": torch.ones(4)}, checkpoint_id=where, no_dist=True)
    assert converter.format(where) in refusal(tmp_path / "step")


FILES = {
    "mp_rank_00/model_optim_rng.pt": ("Megatron", "Megatron-Bridge"),
    "mp_rank_01_003/model_optim_rng.pt": ("Megatron", "verl.model_merger"),
    "common.pt": ("Megatron",),
    "model.gguf": ("GGUF", "gguf_file"),
    "flax_model.msgpack": ("Flax", "from_flax=True"),
    "_CHECKPOINT_METADATA": ("Orbax",),
    "tf_model.h5": ("TensorFlow", "from_tf=True"),
    "last.ckpt": ("Lightning", "state_dict"),
    "run.nemo": ("NeMo",),
    "consolidated.00.pth": ("maker's own format",),
    "model.onnx": ("compiled for inference",),
    "weights.safetensors": ("another name", "model.safetensors"),
    "mp_rank_00_model_states.pt": ("without *_optim_states.pt",),
    "model.safetensors.incomplete": ("unfinished",),
    "optimizer.pt": ("state without weights", "leave this step out"),
    "policy.pt": ("torch files", "save_pretrained"),
    "config.json": ("config.json only",),
    "README.md": ("read are HF safetensors",),
}


@pytest.mark.parametrize("name", FILES)
def test_other_formats_name_their_converter(tmp_path: Path, name: str) -> None:
    """Catches the same words for a GGUF, a Megatron and an unfinished folder."""
    path = tmp_path / "step" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    line = refusal(tmp_path / "step")
    for words in FILES[name]:
        assert words in line


def test_numpy_arrays_and_empty_folders(tmp_path: Path) -> None:
    """Catches an empty folder called a layout."""
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refusal(tmp_path / "empty")
    (tmp_path / "numpy").mkdir()
    np.savez(tmp_path / "numpy" / "weights.npz", w=np.ones(3))
    assert "MLX" in refusal(tmp_path / "numpy")


def test_a_dead_link_is_not_an_unknown_layout(tmp_path: Path) -> None:
    """Catches "no weights" where the hub's cache was cleaned, and the base's config for it."""
    base = open_checkpoint(0, write_model(tmp_path / "base", random_tensors(1)))
    model = write_model(tmp_path / "model", random_tensors(0))
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("../blobs/gone")
    with pytest.raises(PipelineError, match=r"config\.json: is a link to \.\./blobs/gone"):
        open_checkpoint(10, model, base)
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "weights.pt").symlink_to("../blobs/gone")
    assert "weights.pt is a link to ../blobs/gone, which is not there" in refusal(tmp_path / "step")


def test_a_step_that_is_no_folder(tmp_path: Path) -> None:
    """Catches "no such folder" for a file."""
    (tmp_path / "step").write_text("")
    with pytest.raises(PipelineError, match="step: is a file where a folder belongs"):
        open_checkpoint(10, tmp_path / "step")
