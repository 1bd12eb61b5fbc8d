"""Every key of the schema with values of wrong types: one line each, never a TypeError."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline import config as schema
from pipeline import records, runner
from pipeline.arguments import all_keys, field_type
from pipeline.checks import check
from pipeline.config import CONF, STAGES, MemberConfig, PipelineConfig
from pipeline.errors import PipelineError
from pipeline.fields import fits, words
from pipeline.limits import RANGES
from pipeline.stages.base import Context
from pipeline.tracking import Tracker
from pipeline.trajectory.share import Share
from tests.trajectory.pico import run_tensors, write_run

WRONG: list[Any] = [
    *[None, "abc", "", "1", -1, 0, 1.5, float("nan"), float("inf"), True, 10**30],
    *[[], [1], ["a"], [None], [[1]], [1.5, -1], [float("nan")], {}, {"a": 1}, {1: "x"}],
]
OPEN = [  # keys below the maps that any option may be put into
    *["task.options.splits", "task.options.digits", "task.options.operands", "task.options.nope"],
    *["task.options.split_seed", "extrapolation.options.damping", "extrapolation.options.nope"],
    *["extrapolation.options.alpha_by_tensor", "snapshot.checkpoints.10", "evaluate.models.m"],
    *["model.architecture.hidden", "model.architecture.heads", "model.architecture.nope"],
    *["model.architecture.family", "model.architecture.characters"],
]
PLANNED = (  # what the plans of stages read closely; the rest is for the checks alone
    *("task.options", "extrapolation", "weight_extrap", "logit_extrap", "evaluate.models"),
    *("snapshot.base", "snapshot.export", "model.path", "model.package"),
)
ELSEWHERE = {"task.options.splits"}  # without any split there are no problems, and so it is said


def composed(*overrides: str) -> PipelineConfig:
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", overrides=[*overrides, "dry_run=true", "tracking.mode=disabled"])
    return cast(PipelineConfig, OmegaConf.to_object(raw))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a run with every stage that needs no training."""
    folder = tmp_path_factory.mktemp("values")
    write_run(folder / "run", run_tensors([0, 10, 20]))
    return [
        *["+experiment=from_checkpoints", "task=addition", "logit_extrap.alphas=[1.5]"],
        *[f"snapshot.source={folder / 'run'}", f"run.dir={folder / 'out'}"],
        "stages=[snapshot,linear_probe,weight_extrap,logit_extrap,evaluate,report]",
        "task.options.digits=1",  # few problems: every plan draws them
    ]


def with_value(config: PipelineConfig, key: str, value: Any) -> PipelineConfig:
    """The configuration with another value, of whatever type: no schema stands before the checks
    where a program makes the configuration, and OmegaConf's lets much through."""
    changed = copy.deepcopy(config)
    place: Any = changed
    *above, last = key.split(".")
    for name in above:
        inner = place.get(name) if isinstance(place, dict) else getattr(place, name)
        if inner is None:
            inner = {}
            object.__setattr__(place, name, inner)  # a task is fixed for everyone else
        place = inner
    if isinstance(place, dict):
        place[last] = value
    else:
        object.__setattr__(place, last, value)
    return changed


def plan(config: PipelineConfig, run_dir: Path) -> None:
    tracker = Tracker(run_dir, config.name, {}, config.tracking)
    stages = [(name, records.load_stage(name)) for name in STAGES if name in config.stages]
    runner._plan(Context(config, run_dir, tracker, Share()), stages)


def refusal(
    config: PipelineConfig, key: str, value: Any, run_dir: Path, planned: bool = True
) -> str | None:
    changed = with_value(config, key, value)
    try:
        check(changed)
        if planned:
            plan(changed, run_dir)
    except PipelineError as error:
        return str(error)
    return None


def test_no_value_of_any_key_is_a_traceback(given: list[str], tmp_path: Path) -> None:
    """Catches a TypeError, ValueError, KeyError or AttributeError for what somebody typed, a value
    that stalls, and a message that does not say which key: each case works or is refused in one
    line by the checks or a stage's plan."""
    config = composed(*given)
    keys = [key for key in all_keys() if not dataclasses.is_dataclass(field_type(key))]
    wrong = []
    for key in [*keys, *OPEN]:
        above, _, name = key.rpartition(".")
        for value in WRONG:
            line = refusal(config, key, value, tmp_path / "out", key.startswith(PLANNED))
            if line is not None and ("\n" in line or (name not in line and above not in line)):
                wrong.append((key, value, line))
    assert not [case for case in wrong if case[0] not in ELSEWHERE]


REFUSED: dict[str, list[Any]] = {
    "weight_extrap.targets": [[[1]], [-1], [0], [10**30]],
    "logit_extrap.alphas": [[float("nan")], [float("inf")], [[1.5]]],
    "evaluate.temperature": [float("nan"), -1, float("inf")],
    "evaluate.top_p": [0, 1.5, float("nan")],
    "algorithm.learning_rate": [0, -1e-6, float("nan"), float("inf")],
    "linear_probe.problems": [0, -5],
    "seed": [-1, 2**32],
    "extrapolation.options.damping": ["half", [1], float("nan"), True, {}],
    "extrapolation.options.max_norm": ["half", [1], float("nan"), True, {}, 0, -1.5],
    "extrapolation.options.alpha_by_tensor": [1.5, [1], {"*": "x"}, {"*": None}],
    "task.options.splits": [0.5, [1], {"test": "all"}, "test"],
    "task.options.digits": [1.5, "two", None, True],
    "model.architecture.hidden": ["big", 1.5, 0, -8, None],
    "model.architecture.nope": [1],
    "snapshot.checkpoints.10": [None, 3, "", ["a"]],
    "evaluate.models.m": [None, 3, ["a"]],
}


@pytest.mark.parametrize("key", REFUSED)
def test_values_that_cannot_be_are_refused(given: list[str], tmp_path: Path, key: str) -> None:
    """Catches NaN, infinity, booleans and lists that pass for numbers, and what `[[1]]` hides."""
    made = ["stages=[sft_train,rl_train,snapshot]", "model=pico", "snapshot.source=null"]
    config = composed(*given, *(made if key.startswith("model.") else []))
    name, above = key.split(".")[-1], key.rpartition(".")[0]
    for value in REFUSED[key]:
        line = refusal(config, key, value, tmp_path / "out")
        assert line is not None, value
        assert name in line or above in line


def test_ranges_are_of_keys_that_there_are() -> None:
    """Catches a range that a renamed key left behind, so that it checks nothing."""
    inside = {f"logit_extrap.members.{one.name}" for one in dataclasses.fields(MemberConfig)}
    assert set(RANGES) <= {*all_keys(), *inside}


def test_types_in_words() -> None:
    """Catches a hint that the checker reads otherwise than Python does."""
    assert fits(1, float)
    assert not fits(True, int)
    assert not fits(True, float)
    assert fits(None, int | None)
    assert fits([1, 2], list[int])
    assert not fits([1, "2"], list[int])
    assert fits({"a": 1}, dict[str, float])
    assert not fits({"a": "b"}, dict[str, float])
    assert fits({"a": [None]}, Any)
    assert words(int | list[int] | None) == "a whole number or a list of whole numbers or null"
    assert words(dict[str, float]) == "a map to numbers"
