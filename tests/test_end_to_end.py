"""The whole pipeline as a user runs it, on a model of a few thousand parameters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.artifacts import hash_file, read_json, read_jsonl
from pipeline.config import STAGES
from tests.conftest import PICO, ROOT, pipeline_command, run_pipeline
from tests.wandb_file import history, records

# Writes the first attempt to reach another host to $NETWORK_LOG; put first on PYTHONPATH.
NETWORK_GUARD = """
import os, socket
_connect, _lookup = socket.socket.connect, socket.getaddrinfo
def _note(host):
    if str(host) not in ("127.0.0.1", "::1", "localhost", "None", ""):
        with open(os.environ["NETWORK_LOG"], "a") as file:
            file.write(f"{host}\\n")
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _note(address[0])
    return _connect(self, address)
def getaddrinfo(host, *args, **kwargs):
    _note(host)
    return _lookup(host, *args, **kwargs)
socket.socket.connect, socket.getaddrinfo = connect, getaddrinfo
"""


def settled(value: Any) -> Any:
    """Without the log-probs and entropies of draws, whose last bits depend on the batch."""
    if isinstance(value, list):
        return [settled(item) for item in value]
    if isinstance(value, dict):
        return {k: settled(v) for k, v in value.items() if k not in ("logprob", "entropy")}
    return value


def content(run_dir: Path) -> dict[str, Any]:
    """What a run came to: hashes of weights, all generations, all scores, the probes."""
    weights = {
        str(path.relative_to(run_dir)): hash_file(path)
        for stage in ("sft_train/model", "rl_train/snapshots", "weight_extrap")
        for path in sorted((run_dir / stage).rglob("*.safetensors"))
    }
    rows = read_jsonl(run_dir / "evaluate" / "generations.jsonl")
    return {
        "weights": weights,
        "generations": sorted(json.dumps(settled(row), sort_keys=True) for row in rows),
        "scores": settled(read_json(run_dir / "evaluate" / "scores.json")),
        "linearity": read_json(run_dir / "linear_probe" / "weights.json"),
        "logprobs": read_json(run_dir / "linear_probe" / "logprobs.json"),
        "activations": read_json(run_dir / "linear_probe" / "activations.json"),
    }


def test_every_artefact_is_there(pico_run: Path) -> None:
    """Would catch a stage that is skipped, or writes elsewhere than others look."""
    for stage in STAGES:
        done = read_json(pico_run / stage / "done.json")
        assert done["stage"] == stage
        assert done["versions"]["torch"]
    for step in (5, 6):
        folder = pico_run / "weight_extrap" / "two_point" / f"step_{step}"
        for name in ("config.json", "tokenizer.json", "model.safetensors", "extrapolation.json"):
            assert (folder / name).exists()
    page = (pico_run / "report" / "index.html").read_text()
    assert page.count("data:image/png") >= 8
    assert read_jsonl(pico_run / "metrics.jsonl")


def test_scores_cover_every_model_and_split(pico_run: Path) -> None:
    """Would catch a model left out, a choice made on test, or a missing paired difference."""
    scores = read_json(pico_run / "evaluate" / "scores.json")
    names = {"base", *(f"rl-{n}" for n in range(1, 7)), "two_point-5", "two_point-6"}
    names |= {"logit-1.25", "logit-1.5"}
    for split in ("validation", "test"):
        rows = {row["model"]: row for row in scores["rows"] if row["split"] == split}
        assert set(rows) == names
        for name, row in rows.items():
            assert row["ci95"][0] <= row["avg@k"] <= row["ci95"][1]
            assert (row["diff_to_last_rl"] is None) == (name == "rl-6")
            assert (row["diff_to_start"] is None) == (name == "rl-4")
    assert (scores["last_rl"], scores["start"]) == ("rl-6", "rl-4")
    best = max(
        (r for r in scores["rows"] if r["split"] == "validation" and r["kind"] == "logit"),
        key=lambda row: (row["avg@k"], -row["step"]),
    )
    assert scores["chosen"]["logit"]["model"] == best["model"]


def test_weights_follow_the_line(pico_run: Path) -> None:
    """Would catch a wrong alpha: step 6 from 0 and 4 is theta0 + 1.5 (theta4 - theta0)."""
    base = load_file(pico_run / "sft_train" / "model" / "model.safetensors")
    last = load_file(pico_run / "rl_train" / "snapshots" / "step_4" / "model.safetensors")
    made = load_file(pico_run / "weight_extrap" / "two_point" / "step_6" / "model.safetensors")
    for name, value in made.items():
        line = last[name] if "norm" in name else base[name] + 1.5 * (last[name] - base[name])
        wanted = line if "norm" in name else line.bfloat16()
        assert value.equal(wanted), name


def test_the_same_command_again_runs_nothing(pico_run: Path, pico_cache: Path) -> None:
    """Would catch a stage whose key changes from run to run."""
    before = {path: path.stat().st_mtime_ns for path in pico_run.glob("*/done.json")}
    done = run_pipeline(*PICO, f"run.dir={pico_run}", f"run.cache={pico_cache}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done already, skipped") == len(STAGES)
    assert before == {path: path.stat().st_mtime_ns for path in pico_run.glob("*/done.json")}


def test_killed_in_every_stage_it_goes_on_to_the_same_result(
    tmp_path: Path, pico_run: Path
) -> None:
    """Would catch work that a kill loses, doubles or damages: SIGKILL once in each stage.

    Its own cache: the base model is trained here too, so the comparison with the other run is
    also the test that the same seed gives the same weights, samples and scores.
    """
    run_dir = tmp_path / "run"
    command = pipeline_command(*PICO, f"run.dir={run_dir}", f"run.cache={tmp_path / 'cache'}")
    for stage in STAGES:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and not (run_dir / stage / "started.json").exists():
            time.sleep(0.01)
        if stage == "rl_train":  # in the middle: behind the first checkpoint
            while process.poll() is None and not any(
                (run_dir / stage).glob("checkpoints/checkpoint-2/whole.json")
            ):
                time.sleep(0.01)
        assert process.poll() is None, f"ended before {stage}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (run_dir / stage / "done.json").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert content(run_dir) == content(pico_run)


def test_another_configuration_keeps_what_was_there(pico_run: Path, pico_cache: Path) -> None:
    """Would catch results of an older configuration that are deleted or mixed in."""
    # A copy would do, but a dry run says the same without running anything.
    done = run_pipeline(
        *PICO, f"run.dir={pico_run}", f"run.cache={pico_cache}", "dry_run=true", "seed=1"
    )
    assert done.returncode == 0, done.stderr
    assert "skipped" not in done.stdout
    again = run_pipeline(*PICO, f"run.dir={pico_run}", f"run.cache={pico_cache}", "dry_run=true")
    states = [line.split()[1] for line in again.stdout.splitlines()[1:]]
    assert states == ["done"] * len(STAGES)


def test_offline_tracking_writes_wandb_and_never_touches_the_network(
    pico_run: Path, tmp_path: Path
) -> None:
    """Would catch telemetry, a hub look-up, or W&B going online behind tracking.mode=offline."""
    (tmp_path / "sitecustomize.py").write_text(NETWORK_GUARD)
    log = tmp_path / "network.txt"
    run_dir = tmp_path / "run"
    done = run_pipeline(
        "+experiment=from_checkpoints",
        "tracking.mode=offline",
        f"snapshot.source={pico_run / 'rl_train' / 'snapshots'}",
        f"snapshot.base={pico_run / 'sft_train' / 'model'}",
        "task=addition",
        "task.options.digits=1",
        "task.options.splits={train: 0.6, validation: 0.2, test: 0.2}",
        "stages=[snapshot,linear_probe,weight_extrap,evaluate,report]",
        "model.dtype=float32",
        "evaluate.max_tokens=4",
        f"run.dir={run_dir}",
        PYTHONPATH=str(tmp_path),
        NETWORK_LOG=str(log),
        HF_HUB_OFFLINE="0",
    )
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    offline = list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert offline
    sent = [key for row in history(offline[0]) for key in row]
    assert {"scores", "generations"} <= {key.split("/")[0] for key in sent}
    assert "horizon/addition/test/rl" in sent
    assert {"horizon/addition/test/two_point", "alpha/addition/test/two_point"} <= set(sent)
    kinds = [r.WhichOneof("record_type") for r in records(offline[0])]
    assert kinds.count("artifact") >= 2  # trajectory and scores, beside those of the tables


def test_an_older_stage_is_named_when_it_is_missing(tmp_path: Path) -> None:
    """Would catch a crash deep inside a stage whose inputs were never made."""
    done = run_pipeline(*PICO, "stages=[linear_probe]", f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "linear_probe needs snapshot" in done.stderr


@pytest.mark.parametrize("damage", ["truncated", "missing tensor", "not a number"])
def test_damaged_checkpoints_are_refused_in_one_line(
    damage: str, pico_run: Path, tmp_path: Path
) -> None:
    """Would catch a damaged input that is extrapolated all the same."""
    import shutil

    import torch
    from safetensors.torch import save_file

    source = tmp_path / "source"
    shutil.copytree(pico_run / "rl_train" / "snapshots", source)
    file = source / "step_3" / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing tensor":
        save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
    else:
        tensors[name].view(-1)[0] = torch.nan
        save_file(tensors, file, {"format": "pt"})
    done = run_pipeline(
        "+experiment=from_checkpoints",
        "tracking.mode=disabled",
        f"snapshot.source={source}",
        f"snapshot.base={pico_run / 'sft_train' / 'model'}",
        f"run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "step_3" in lines[0]
    assert damage == "truncated" or name in lines[0]
    assert not (tmp_path / "run" / "weight_extrap").exists()
