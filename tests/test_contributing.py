"""The worked examples of CONTRIBUTING.md, applied to a copy of the repository and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.trajectory.pico import load_model, run_tensors, write_model, write_run

STEPS = [0, 300, 600]
BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```", re.M | re.S)


def apply(copy: Path, block: str) -> None:
    """Do what the first line of a block says with the rest of it."""
    order, _, code = block.partition("\n")
    if found := re.fullmatch(r"# new file (\S+)", order):
        path = copy / found[1]
        assert not path.exists()
        path.write_text(code)
        return
    if found := re.fullmatch(r"# append to (\S+)", order):
        path = copy / found[1]
        path.write_text(f"{path.read_text()}\n\n{code}")
        return
    found = re.fullmatch(r"# in (\S+), (instead of|before): (.+)", order)
    assert found is not None, order
    path, line = copy / found[1], found[3]
    lines = path.read_text().split("\n")
    assert lines.count(line) == 1, f"{found[1]} no longer has the line {line!r}"
    at = lines.index(line)
    lines[at : at + (found[2] == "instead of")] = code.rstrip("\n").split("\n")
    path.write_text("\n".join(lines))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its configuration with all examples in it, beside made checkpoints."""
    for name in ("pipeline", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)  # with the machine code of the kernels
    for language, block in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        if language != "bash":
            apply(tmp_path, block)
    truth = run_tensors(STEPS)
    write_model(tmp_path / "BASE", truth.pop(0))
    write_run(tmp_path / "RUN", truth)
    for folder in (tmp_path / "RUN").iterdir():
        (weights,) = folder.rglob("*.safetensors")
        weights.rename(folder / "weights.sft")
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_examples_work_together(copy: Path) -> None:
    """Would catch a page that describes interfaces as they once were."""
    commands = [
        block
        for language, block in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
        if language == "bash"
    ]
    script = "\n".join(commands).replace("python -m", f"{sys.executable} -m")
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine test" in done.stdout
    assert json.loads((copy / "OUT/sizes/sizes.json").read_text())["parameters"] > 0
    found = load_model(copy / "OUT/weight_extrap/halfway/step_900")
    start = load_model(copy / "BASE")
    end = run_tensors(STEPS)[600]
    for name, value in found.items():
        if "norm" not in name:
            wanted = start[name].float() + 0.75 * (
                end[name].bfloat16().float() - start[name].float()
            )
            assert torch.allclose(value.float(), wanted, rtol=2**-7, atol=1e-6), name
