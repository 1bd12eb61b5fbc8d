"""The package as a library: the pages' own Python lines, run on checkpoints made for them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline
from pipeline.config import DEFAULT_HOLD
from pipeline.library import NORMS
from tests.conftest import ROOT
from tests.trajectory.pico import load_model, run_tensors, write_model, write_run

STEPS = [0, 150, 300, 450, 600]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BASE and RUN as the pages name them, where the lines are run."""
    truth = run_tensors(STEPS)
    write_model(tmp_path / "BASE", truth.pop(0))
    write_run(tmp_path / "RUN", truth)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(page: str) -> str:
    """The one Python block of a page."""
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    return str(block)


def test_the_lines_of_the_readme_extrapolate(place: Path) -> None:
    """Would catch lines that no longer run, or that do something else than the two-point rule."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            lines("README.md") + "import sys; assert 'hydra' not in sys.modules",
        ],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1
    start, end = load_model(place / "BASE"), load_model(place / "RUN" / "global_step_600")
    for target in (900, 1100):
        found = load_model(place / "OUT" / f"step_{target}")
        for name, value in found.items():
            first, last = start[name].float(), end[name].float()
            wanted = first + target / 600 * (last - first)
            wanted = end[name] if "norm" in name else wanted.to(torch.bfloat16)
            assert torch.allclose(value.float(), wanted.float(), rtol=2**-8, atol=0), name
    assert len(lines("README.md").splitlines()) <= 5


def test_the_lines_of_the_page_take_every_option(place: Path) -> None:
    """Would catch an option that is taken and then ignored."""
    values: dict[str, Any] = {}
    exec(lines("docs/trajectory.md"), values)
    models = [load_model(place / "BASE")]
    models += [load_model(place / "RUN" / f"global_step_{step}") for step in (300, 600)]
    for name, value in load_model(place / "OUT" / "fitted").items():
        first, middle, last = (model[name].double().numpy() for model in models)
        slope, offset = np.polyfit([0, 300, 600], [a.ravel() for a in (first, middle, last)], 1)
        line = (slope * 1100 + offset).reshape(last.shape)
        wanted = last if "norm" in name or "lm_head" in name else last + 0.8 * (line - last)
        assert value.dtype == torch.bfloat16
        assert np.allclose(value.double().numpy(), wanted, rtol=2**-8, atol=1e-7), name
    rows = {row["name"]: row["r2_median"] for row in values["report"]["tensors"]}
    assert len(rows) == len(models[0])


def test_importing_the_package_loads_nothing() -> None:
    """Would catch an import at the top that makes every command line wait for torch."""
    code = (
        "import sys, pipeline; print([m for m in ('torch', 'numpy', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr
    with pytest.raises(AttributeError, match="extrapolates"):
        _ = pipeline.extrapolates
    with pytest.raises(ImportError):
        exec("from pipeline import extrapolates")


def test_the_command_line_holds_the_same_tensors() -> None:
    """Would catch two defaults for one thing."""
    assert NORMS == DEFAULT_HOLD


UNTYPED: Any = pipeline  # callers that check no types
CHECKPOINT = "RUN/global_step_600"
MISTAKES: dict[str, tuple[Callable[[Any], object], str]] = {
    "over a checkpoint": (
        lambda run: pipeline.extrapolate(run, to={900: CHECKPOINT}),
        "is the checkpoint of step 600",
    ),
    "over the user's folder": (
        lambda run: pipeline.extrapolate(run, to={900: "RUN"}),
        "exists and is no extrapolated model",
    ),
    "over the user's file": (
        lambda run: pipeline.extrapolate(run, to={900: CHECKPOINT + "/config.json"}),
        "exists and is no extrapolated model",
    ),
    "two steps into one folder": (
        lambda run: pipeline.extrapolate(run, to={900: "OUT", 1100: "BASE/../OUT"}),
        "give each its own",
    ),
    "no step": (lambda run: pipeline.extrapolate(run, to={}), "no step to predict"),
    "a step without a folder": (lambda run: UNTYPED.extrapolate(run, to=900), "{step: folder}"),
    "a step as text": (lambda run: UNTYPED.extrapolate(run, to={"900": "OUT"}), "whole number"),
    "a step that is not there": (
        lambda run: pipeline.extrapolate(run, to={900: "OUT"}, last=500),
        "last=500: no such checkpoint",
    ),
    "no checkpoints": (lambda run: pipeline.discover({}), "no checkpoint"),
    "checkpoints by text": (lambda run: UNTYPED.discover({"0": "BASE"}), "whole number"),
    "a base that is not there": (lambda run: pipeline.discover("RUN", base="BAES"), "BAES"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_and_nothing_is_lost(mistake: str, place: Path) -> None:
    """Would catch a checkpoint that is replaced by a prediction, or a mistake found too late."""
    run = pipeline.discover("RUN", base="BASE")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    call, words = MISTAKES[mistake]
    with pytest.raises(pipeline.PipelineError) as caught:
        call(run)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_what_it_wrote_itself_is_kept_or_replaced(place: Path) -> None:
    """Would catch a second call that refuses the first one's folder, or leaves another's there."""
    run = pipeline.discover("RUN", base="BASE")
    (place / "OUT").mkdir()
    pipeline.extrapolate(run, to={900: "OUT"})
    made = (place / "OUT" / "model.safetensors").stat()
    pipeline.extrapolate(run, to={900: "OUT"})
    assert (place / "OUT" / "model.safetensors").stat() == made
    record = pipeline.extrapolate(run, to={1100: "OUT"})[1100]
    assert record["target"] == 1100
    assert (place / "OUT" / "model.safetensors").stat() != made


def test_an_output_that_is_an_input_is_not_replaced(place: Path) -> None:
    """Would catch a prediction from predictions that deletes what it is made from."""
    run = pipeline.discover("RUN", base="BASE")
    pipeline.extrapolate(run, to={900: "OUT"})
    longer = pipeline.discover({0: "BASE", 900: "OUT"})
    with pytest.raises(pipeline.PipelineError, match="is the checkpoint of step 900"):
        pipeline.extrapolate(longer, to={1200: "OUT"})
