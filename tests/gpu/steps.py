"""The steps of the GPU check, in order of worth, each with the seconds that it may take."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.gpu.bench import Bench, Step, StepError
from tests.gpu.study import study

PICO = "+experiment=pico"


def pico(bench: Bench) -> dict[str, Any]:
    """Every stage on the device, by the HF engine; seconds of each."""
    bench.run("pico", *bench.pipeline("pico", PICO))
    kinds = {row["kind"] for row in _json(bench.work / "pico/evaluate/scores.json")["rows"]}
    if kinds != {"base", "rl", "weight", "logit"}:
        raise StepError(f"pico: only {sorted(kinds)} were evaluated")
    done = sorted((bench.work / "pico").glob("*/done.json"))
    return {path.parent.name: _json(path)["seconds"] for path in done}


def zero2(bench: Bench) -> dict[str, Any]:
    """DeepSpeed ZeRO-2 in bf16 with delta snapshots from fp32 masters: the same run once whole and
    once killed and resumed. Where kernels add in another order the weights differ a little."""
    values = [PICO, "stages=[sft_train,rl_train,snapshot]", "compute.launcher=deepspeed"]
    values += ["compute.zero_stage=2", "compute.bf16=true", "rl_train.steps=8"]
    values += ["rl_train.snapshot_dtype=delta_float32", "rl_train.snapshot_every=4"]
    whole = bench.start("whole", *bench.pipeline("whole", *values))
    arguments = bench.pipeline("killed", *values)
    first = bench.start("killed", *arguments)
    saved = bench.work / "killed/rl_train/checkpoints"
    while first.poll() is None and not any(saved.glob("checkpoint-*")):
        if time.monotonic() > bench.deadline:
            raise StepError("killed: no checkpoint in time")
        time.sleep(0.02)
    alive = first.poll() is None
    if alive:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    steps = [row["step"] for row in _rows(bench.work / "killed/rl_train/metrics.jsonl")]
    bench.run("killed", *arguments)
    bench.wait("whole", whole)
    return {
        "killed after step": max(steps, default=0) if alive else "the end",
        "largest difference of a weight": _difference(bench.work, 8),
        "largest movement": _movement(bench.work / "whole", 8),
    }


def published(bench: Bench) -> dict[str, Any]:
    """One training step at the published size, micro-batch 1, 2 and 4: peak and seconds against
    what dry_run estimates."""
    found: dict[str, Any] = {}
    for rows in (1, 2) if bench.tiny else (1, 2, 4):
        name = f"rows_{rows}"
        out = bench.work / f"{name}.json"
        tiny = ["--tiny"] if bench.tiny else []
        try:
            bench.run(name, "-m", "tests.gpu.published_step", str(out), "--rows", str(rows), *tiny)
        except StepError as error:
            found[name] = str(error)[-200:]
            continue
        found[name] = _json(out)
    if all(isinstance(value, str) for value in found.values()):
        raise StepError(str(found))
    return found


def weights(bench: Bench) -> dict[str, Any]:
    """The trajectory core on all cores: seconds of a job and of its floor, with a warm cache."""
    out, folder = bench.work / "weights.json", bench.work / "weights"
    scale, cases = ("pico", ["two_point"]) if bench.tiny else ("small", ["two_point", "probe"])
    command = ["benchmarks/weights.py", "--scale", scale, "--turns", "1", "--where", "page cache"]
    bench.run("weights", *command, "--cases", *cases, "--dir", str(folder), "--json", str(out))
    return {"scale": scale, "jobs": _json(out)}


def mixture(bench: Bench) -> dict[str, Any]:
    """Lockstep and speculative sampling of two checkpoints, on those of `pico`."""
    run = bench.work / "pico"
    if not (run / "rl_train/done.json").exists():
        raise StepError("needs the step pico")
    found: dict[str, Any] = {}
    for drafts in (0, 4):
        name = f"speculative_{drafts}"
        values = [PICO, "stages=[snapshot,logit_extrap]", f"logit_extrap.speculative={drafts}"]
        values += [f"snapshot.source={run / 'rl_train/snapshots'}", "logit_extrap.alphas=[1.5]"]
        values += [f"snapshot.base={run / 'sft_train/model'}", "engine.batch_size=8"]
        bench.run(name, *bench.pipeline(name, *values))
        seconds = _json(bench.work / name / "logit_extrap/done.json")["seconds"]
        rows = _rows(bench.work / name / "logit_extrap/generations.jsonl")
        found[name] = {"seconds": seconds, "responses": len(rows)}
    return found


STEPS: dict[str, tuple[Step, float]] = {
    "pico": (pico, 100),
    "zero2": (zero2, 180),
    "published": (published, 150),
    "weights": (weights, 90),
    "mixture": (mixture, 60),
    "study": (study, 450),
}


def _difference(work: Path, step: int) -> float:
    """Largest difference of a weight between the two runs of `zero2` at a step."""
    one, other = (_delta(work / name, step) for name in ("whole", "killed"))
    if one.keys() != other.keys():
        raise StepError("the two runs' snapshots have other tensors")
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def _movement(run: Path, step: int) -> float:
    return max(float(tensor.abs().max()) for tensor in _delta(run, step).values())


def _delta(run: Path, step: int) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run / f"rl_train/snapshots/step_{step}/delta.safetensors")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
