"""Discovery and checks: would catch a step taken from a position, and a bad input let through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.trajectory.fingerprint import check_finite, fingerprint
from pipeline.trajectory.sources import Trajectory, discover
from tests.trajectory.pico import random_tensors, run_tensors, write_model, write_run

STEPS = [0, 20, 100]


def make(tmp_path: Path, name: str = "global_step_{}", **options: object) -> Path:
    run = run_tensors(STEPS)
    return write_run(tmp_path / "run", run, name=name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["global_step_{}", "checkpoint-{}", "step_{}"])
@pytest.mark.parametrize("inner", ["", "/actor/huggingface", "/huggingface", "/hf_model"])
def test_steps_are_the_numbers_in_names(tmp_path: Path, name: str, inner: str) -> None:
    root = make(tmp_path, name + inner)
    (root / "logs").mkdir()
    found = discover(root, base=None)
    assert found.steps == STEPS
    assert found.paths[20] == root / (name + inner).format(20)
    assert found.parameters == sum(t.numel() for t in random_tensors(0).values())
    assert found.dtype == "bfloat16"


def test_base_is_step_zero_and_explicit_paths_win(tmp_path: Path) -> None:
    root = make(tmp_path)
    base = (root / "global_step_0").rename(tmp_path / "base")
    assert discover(root, base).paths[0] == base
    chosen = discover(root, base, explicit={7: root / "global_step_100"})
    assert chosen.steps == [0, 7]


def test_base_inside_the_run_is_not_a_second_step_zero(tmp_path: Path) -> None:
    root = make(tmp_path)
    assert discover(root, root / "global_step_0").steps == STEPS


def test_sharded_reads_as_single(tmp_path: Path) -> None:
    one = discover(make(tmp_path / "a"), None)
    two = discover(make(tmp_path / "b", shards=2), None)
    assert set(one.base.entries) == set(two.base.entries)
    assert len(two.base.files) == 2


def truncate(path: Path, drop: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-drop])


def test_faults_are_named(tmp_path: Path) -> None:
    cases = {
        "missing shard": ("model-00002-of-00002.safetensors", "no such file"),
        "truncated": ("model-00001-of-00002.safetensors", "truncated"),
    }
    for case, (filename, message) in cases.items():
        root = make(tmp_path / case, shards=2)
        path = root / "global_step_20" / filename
        if case == "truncated":
            truncate(path, 10)
        else:
            path.unlink()
        with pytest.raises(PipelineError, match=message) as error:
            discover(root, None)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    root = make(tmp_path, shards=2)
    path = root / "global_step_20/model.safetensors.index.json"
    index = json.loads(path.read_text())
    whole = dict(index["weight_map"])
    index["weight_map"]["model.ghost"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(PipelineError, match=r"model\.ghost is missing, the index names it"):
        discover(root, None)
    index["weight_map"] = {n: f for n, f in whole.items() if n != "model.norm.weight"}
    path.write_text(json.dumps(index))
    with pytest.raises(PipelineError, match=r"model\.norm\.weight is not in the index"):
        discover(root, None)
    path.write_text("{")
    with pytest.raises(PipelineError, match="not valid JSON"):
        discover(root, None)


def test_header_cut_short(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "global_step_20/model.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(PipelineError, match="truncated or not safetensors"):
        discover(root, None)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_unlike_checkpoint_names_the_tensor(tmp_path: Path, fault: str) -> None:
    root = make(tmp_path)
    tensors = random_tensors(5)
    name = "model.layers.1.mlp.up_proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        name = "model.layers.2.mlp.up_proj.weight"
        tensors[name] = torch.zeros(2, 2)
    else:
        tensors[name] = torch.zeros(24, 9)
    write_model(root / "global_step_20", tensors)
    with pytest.raises(PipelineError, match=fault) as error:
        discover(root, None)
    assert name in str(error.value)
    assert "global_step_20" in str(error.value)


def test_step_twice(tmp_path: Path) -> None:
    root = make(tmp_path)
    write_model(root / "step_20", random_tensors(5))
    with pytest.raises(PipelineError, match="step 20 twice"):
        discover(root, None)
    with pytest.raises(PipelineError, match="step 0 twice"):
        discover(root / "..", write_model(tmp_path / "base", random_tensors(0)), {0: root})


def test_nothing_found_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no checkpoints"):
        discover(tmp_path, None)
    with pytest.raises(PipelineError, match="no such folder"):
        discover(tmp_path / "nowhere", None)
    (tmp_path / "step_3").mkdir()
    with pytest.raises(PipelineError, match=r"no weights of a known layout"):
        discover(tmp_path, None)


def test_tied_head_counts_once_even_if_stored(tmp_path: Path) -> None:
    tied = write_model(tmp_path / "step_0", random_tensors(0, tied=True), tied=True)
    tensors = random_tensors(1, tied=True)  # the next stores lm_head all the same
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write_model(tmp_path / "step_1", tensors, tied=True)
    found = discover(tmp_path, None)
    assert found.tied == ("lm_head.weight",)
    assert all("lm_head.weight" not in c.entries for c in found.checkpoints.values())
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tied / "config.json").write_text(json.dumps(config))
    with pytest.raises(PipelineError, match=r"lm_head\.weight is absent"):
        discover(tmp_path, None)


def test_json_round_trip_and_change_is_noticed(tmp_path: Path) -> None:
    root = make(tmp_path, shards=2)
    recorded = fingerprint(discover(root, None))
    value = json.loads(json.dumps(recorded.to_json()))
    assert value["steps"] == STEPS
    again = Trajectory.from_json(value)
    assert again == recorded
    path = root / "global_step_20/model-00001-of-00002.safetensors"
    same = path.read_bytes()
    path.write_bytes(same)  # touched, content equal
    assert Trajectory.from_json(value).checkpoints[20].files[0].sha256 is not None
    path.write_bytes(same[:-1] + bytes([same[-1] ^ 1]))
    with pytest.raises(PipelineError, match="changed since"):
        Trajectory.from_json(value)


def test_hash_is_sha256_of_the_file(tmp_path: Path) -> None:
    import hashlib

    root = make(tmp_path)
    file = fingerprint(discover(root, None)).base.files[0]
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_counted(tmp_path: Path, bad: float) -> None:
    run = run_tensors(STEPS)
    run[20]["model.norm.weight"][2:5] = bad
    trajectory = discover(write_run(tmp_path, run), None)
    with pytest.raises(PipelineError, match=r"model\.norm\.weight: 3 of 8"):
        check_finite(trajectory)
