"""Several extrapolation methods in one run: would catch a method dropped in silence, options
that reach another method, and a fault of one that is found when the others are written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import MissingConfigException

from pipeline.arguments import check_methods
from pipeline.artifacts import read_json
from pipeline.checks import check
from pipeline.config import MethodConfig
from pipeline.errors import PipelineError
from pipeline.evaluation import candidates
from pipeline.evaluation.selection import choose
from pipeline.explain import explain
from pipeline.stages import weight_extrap
from pipeline.stages.base import Context
from pipeline.trajectory.rule import make_rule
from tests.stages.contexts import context_of
from tests.test_configs import composed

SEVERAL = [f"+extrapolation@extrapolations.{name}={name}" for name in ("two_point", "rank1")]
SEVERAL += ["+extrapolation@extrapolations.half=mean", "extrapolations.half.options.damping=0.5"]


@pytest.fixture
def run_dir(pico_run: Path, tmp_path: Path) -> Path:
    """A copy of the pico run as far as its extrapolations; its checkpoints stay where they are."""
    copy = tmp_path / "run"
    for name in ("snapshot", "weight_extrap"):
        shutil.copytree(pico_run / name, copy / name)
    shutil.copy(pico_run / "config.yaml", copy)
    return copy


def several(run_dir: Path, **options: Any) -> Context:
    """The run with the methods of `SEVERAL`; `options` are those of `half`."""
    entries = composed("+experiment=pico", *SEVERAL).extrapolations
    entries["half"].options |= options
    return context_of(run_dir, extrapolations=entries)


def test_several_methods_compose_and_keep_their_options(run_dir: Path) -> None:
    config = composed("+experiment=pico", *SEVERAL, "extrapolation.hold=[]")
    check(config)
    assert list(config.extrapolations) == ["two_point", "rank1", "half"]
    found = several(run_dir).methods
    assert {name: method.rule.damping for name, method in found.items()} == {
        "two_point": 1.0, "rank1": 1.0, "half": 0.5,
    }  # fmt: skip
    assert [method.hold for method in found.values()] == [("*norm*",), ("*norm*",), ()]
    one = context_of(run_dir).methods
    assert [(name, method.rule.key) for name, method in one.items()] == [
        ("two_point", "extrapolation")
    ]


def test_every_method_has_its_folders_and_candidates(run_dir: Path) -> None:
    """And what is there already stays: `two_point` was written by the run with one method."""
    weight_extrap.run(context_of(run_dir))
    before = (run_dir / "weight_extrap/two_point/step_5/config.json").stat().st_ino
    context = several(run_dir)
    assert weight_extrap.plan(context).startswith("two_point, rank1, half from 0 to 4, targets 5")
    assert weight_extrap.run(context)["method"] == "two_point, rank1, half"
    assert (run_dir / "weight_extrap/two_point/step_5/config.json").stat().st_ino == before
    record = read_json(run_dir / "weight_extrap/half/step_6/extrapolation.json")
    assert (record["method"], record["damping"], record["hold"]) == ("mean", 0.5, [])
    found = candidates.weight_candidates(context)
    assert [c.name for c in found] == [
        f"{name}-{step}" for name in ("half", "rank1", "two_point") for step in (5, 6)
    ]
    assert len({c.fingerprint for c in found}) == 6
    kept = (run_dir / "weight_extrap/rank1/step_5/config.json").stat().st_ino
    weight_extrap.run(several(run_dir, damping=0.25))
    assert (run_dir / "weight_extrap/rank1/step_5/config.json").stat().st_ino == kept
    again = read_json(run_dir / "weight_extrap/half/step_6/extrapolation.json")
    assert again["damping"] == 0.25


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 40}, "extrapolations.half.options.count=40: there are 5 checkpoints"),
        ({"rank": 2}, "extrapolations.half.options.rank: mean takes count, damping"),
        ({"damping": "x"}, "extrapolations.half.options: damping is text"),
        ({"alpha_by_tensor": {"*x*": 1.0}}, "extrapolations.half.options.alpha_by_tensor: '*x*'"),
    ],
)
def test_a_fault_of_one_method_is_found_in_the_plan(
    run_dir: Path, pico_run: Path, options: dict[str, Any], words: str
) -> None:
    context = several(run_dir, **options)
    context.config.snapshot.source = str(pico_run / "rl_train" / "snapshots")
    context.config.snapshot.base = str(pico_run / "sft_train" / "model")
    with pytest.raises(PipelineError) as refusal:
        weight_extrap.plan(context)
    assert words in str(refusal.value)


@pytest.mark.parametrize("argument", ["extrapolation=gated", "extrapolation.options.damping=0.5"])
def test_a_method_that_would_not_run_is_refused(argument: str) -> None:
    check_methods([argument, "extrapolation.last=4"], several=False)
    check_methods(["extrapolation.last=4", *SEVERAL], several=True)
    with pytest.raises(PipelineError, match="is for a single method"):
        check_methods([argument, *SEVERAL], several=True)
    with pytest.raises(PipelineError, match="is for a single method"):
        check_methods(["extrapolation=[gated,mean]"], several=False)
    with pytest.raises(PipelineError, match="a name is its key"):
        check_methods([*SEVERAL, "extrapolations.half.name=other"], several=True)


def test_the_earlier_name_of_a_method_leads_to_the_new_one() -> None:
    """A list of all there are, in which nobody finds the name that worked before."""
    for argument in ("extrapolation=stale", "+extrapolation@extrapolations.x=stale"):
        with pytest.raises(MissingConfigException) as missing:
            composed("+experiment=pico", argument)
        assert explain(missing.value).endswith("is now called last; give extrapolation=last")
    with pytest.raises(PipelineError, match=r"^x\.method: stale is now called last$"):
        make_rule("stale", key="x")


@pytest.mark.parametrize("name", ["rl", "base", "logit", "a/b", "..", " "])
def test_a_name_that_cannot_be_a_methods(name: str) -> None:
    """A folder outside the stage's, and scores under the name of a checkpoint."""
    config = composed("+experiment=pico")
    config.extrapolations = {name: MethodConfig(method="mean")}
    with pytest.raises(PipelineError, match=r"^extrapolations\."):
        check(config)


def test_method_and_horizon_are_chosen_on_validation() -> None:
    """The best of one method's curve, or one on test, taken for the best of all."""
    values = {("two_point", 5): 0.4, ("two_point", 6): 0.5, ("rank1", 5): 0.6, ("rank1", 6): 0.6}
    rows = [
        {"model": f"{method}-{step}", "kind": "weight", "split": split, "avg@k": value,
         "method": method, "step": step}
        for (method, step), value in values.items()
        for split in ("validation", "test")
    ]  # fmt: skip
    rows.append({**rows[0], "model": "two_point-9", "split": "test", "avg@k": 1.0})
    best = choose(rows)["weight"]
    assert (best["model"], best["method"], best["step"]) == ("rank1-5", "rank1", 5)
