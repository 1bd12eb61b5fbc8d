"""Models that the user names beside the run's own: `evaluate.models`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifacts import read_json, read_jsonl
from pipeline.checks import check
from pipeline.errors import PipelineError
from pipeline.report.page import write_page
from pipeline.stages import evaluate as stage
from tests.conftest import PICO, run_pipeline
from tests.report.drawing import undrawn
from tests.stages.contexts import context_of
from tests.test_configs import composed


def evaluate(run_dir: Path, models: str, *more: str) -> Any:
    named = [f"run.dir={run_dir}", "stages=[evaluate]", f"evaluate.models={models}"]
    return run_pipeline(*PICO, *named, *more)


def test_folders_and_predictions_are_evaluated(pico_run: Path, tmp_path: Path) -> None:
    """Other weights than named; rows of one model made twice; a model that the report lacks."""
    run_dir, other, copy = tmp_path / "run", tmp_path / "other", tmp_path / "copy"
    shutil.copytree(pico_run, run_dir)
    for folder in (other, copy):
        shutil.copytree(pico_run / "rl_train" / "snapshots" / "step_4", folder)
    weights = load_file(other / "model.safetensors")
    save_file({n: torch.zeros_like(w) for n, w in weights.items()}, other / "model.safetensors")
    before = len(read_jsonl(run_dir / "evaluate" / "generations.jsonl"))
    done = evaluate(
        run_dir,
        f"{{zero:{other},copied:{copy},six:{{method:two_point,target:6}},"
        "seven:{method:mean,target:7}}",
    )
    assert done.returncode == 0, done.stderr
    rows = read_json(run_dir / "evaluate" / "scores.json")["rows"]
    scores = {(row["model"], row["split"]): row for row in rows}
    for split in ("validation", "test"):
        assert scores["zero", split]["kind"] == "named"
        for name, equal in (("copied", "rl-4"), ("six", "two_point-6")):
            for key in ("avg@k", "tokens_mean", "ci95"):
                assert scores[name, split][key] == scores[equal, split][key]
        assert scores["seven", split]["method"] == "mean"
    rows = read_jsonl(run_dir / "evaluate" / "generations.jsonl")
    assert {row["model"] for row in rows[before:]} == {"zero", "seven"}
    texts = {name: [r["text"] for r in rows if r["model"] == name] for name in ("zero", "rl-4")}
    assert len(set(texts["zero"])) > 3 * len(set(texts["rl-4"]))  # every token alike
    with undrawn():
        page = write_page(run_dir).read_text()
    assert "zero" in page
    assert "copied" in page


BAD = {
    "[rl-4]": "evaluate.models=['rl-4']: give {name: model}",
    "{x:7}": "evaluate.models.x: 7 is no folder, no hub id and no {method: METHOD, target: STEP}",
    "{x:/no/such/folder}": "evaluate.models.x: /no/such/folder is neither a folder nor a hub id",
    "{x:'extrapolated(two_point, 8)'}": "neither a folder nor a hub id",
    "{x:{method:two_point}}": "is no folder, no hub id and no {method: METHOD, target: STEP}",
    "{x:{method:two_point,target:8,by:1}}": "evaluate.models.x.by: no such key; there are method,",
    "{x:{method:two_point,target:far}}": "evaluate.models.x: target is text ('far'), not a whole",
    "{x:{method:twopoint,target:8}}": "evaluate.models.x.method: unknown extrapolation method",
    "{x:{method:mean,target:8,options:{n:2}}}": "evaluate.models.x.options.n: mean takes count",
    "{x:{method:gated,target:1}}": "weight_extrap.targets: 1 is before extrapolation.last",
    "{rl-7:{method:mean,target:8}}": "evaluate.models.rl-7: the run's own models have such names",
}


def test_another_dtype_of_the_weights_is_another_model(pico_run: Path, tmp_path: Path) -> None:
    """A stage that counts as done, with the scores of the weights before."""
    run_dir, models = tmp_path / "run", "{six:{method:two_point,target:6}}"
    shutil.copytree(pico_run, run_dir)
    evaluate(run_dir, models)
    again = evaluate(run_dir, models, "dry_run=true").stdout
    changed = evaluate(run_dir, models, "dry_run=true", "weight_extrap.dtype=float16").stdout
    stages = [text.split("evaluate ")[1].split()[0] for text in (again, changed)]
    assert stages == ["done", "stale"]


@pytest.mark.parametrize("models", BAD)
def test_what_is_no_model_is_refused_before_any_work(models: str, pico_run: Path) -> None:
    """A mistake that is found when other models have been sampled for hours."""
    given = composed("+experiment=pico", f"evaluate.models={models}").evaluate.models
    context = context_of(pico_run, evaluate__models=given)
    with pytest.raises(PipelineError) as refusal:  # noqa: PT012
        check(context.config)
        stage.plan(context)
    assert BAD[models] in str(refusal.value)


def test_a_model_of_another_shape_is_named(pico_run: Path, tmp_path: Path) -> None:
    """Weights that an engine takes half of."""
    run_dir, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(pico_run, run_dir)
    shutil.copytree(pico_run / "rl_train" / "snapshots" / "step_4", other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    save_file(weights | {name: torch.ones(3)}, other / "model.safetensors")
    done = evaluate(run_dir, f"{{other:{other}}}")
    assert done.returncode == 1
    assert f"{other}: tensor {name} has shape [3]" in done.stderr
