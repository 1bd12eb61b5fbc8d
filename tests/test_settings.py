"""Faults caught: a value that decides a result and is left out, and one that makes work stale for
nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline import settings
from pipeline.fields import ADDED, added
from pipeline.settings import changes, deciding
from tests.test_configs import composed


@dataclass
class Inner:
    late: list[int] = field(default_factory=lambda: [1], metadata={ADDED: True})


@dataclass
class Schema:
    early: int = 1
    late: float | None = added(None)
    inner: Inner = field(default_factory=Inner)


def values(*overrides: str) -> dict[str, Any]:
    return asdict(composed("+experiment=qwen_math", *overrides))


def test_names_speed_and_logging_decide_nothing() -> None:
    changed = [
        *("compute.threads=3", "compute.vllm_memory=0.2", "engine.gpu_memory_utilization=0.5"),
        *("algorithm.micro_batch=1", "rl_train.checkpoint_every=7", "model.attention=sdpa"),
        *("algorithm.name=mine", "engine.replicas=2", "+eval_tasks.aime24.options.workers=3"),
    ]
    sections = list(values())
    sections = [key for key in sections if key not in ("run", "tracking")]
    assert deciding(values(*changed), sections) == deciding(values(), sections)


def test_what_differs_is_said_key_by_key() -> None:
    sections = ("algorithm", "task", "eval_tasks")
    other = values(
        "algorithm.learning_rate=2e-6", "task.grade_after=null", "eval_tasks.aime25.kind=boxed"
    )
    said = changes(deciding(values(), sections), deciding(other, sections))
    assert said == [
        "algorithm.learning_rate: 1e-6 → 2e-6",
        "eval_tasks.aime25.kind: math → boxed",
        "task.grade_after: </think> → null",
    ]


def test_steps_decide_where_the_schedule_depends_on_them() -> None:
    sections = ("rl_train", "algorithm")
    longer = values("rl_train.steps=2000")
    assert deciding(longer, sections) == deciding(values(), sections)
    cosine = [values("algorithm.lr_schedule=cosine", f"rl_train.steps={n}") for n in (1400, 2000)]
    said = changes(*(deciding(value, sections) for value in cosine))
    assert said == ["rl_train.steps: 1400 → 2000"]


def test_a_whole_number_is_the_same_with_a_point() -> None:
    """An option of a task is of no declared type: 1 and 1.0 would be two values."""
    found = [deciding({"task": {"options": {"low": low}}}, ["task"]) for low in (1, 1.0)]
    assert found[0] == found[1]
    assert str(found[0]) == str(found[1])


def test_local_paths_are_known_by_content_elsewhere(tmp_path: Path) -> None:
    """A data file that has moved; of two runs without run.dir, the path tells them apart."""
    data = {"task": {"dataset": {"path": str(tmp_path)}}, "model": {"path": "lab/model"}}
    assert deciding(data, ["task", "model"]) == {"model.path": "lab/model"}
    assert deciding(data, ["task"], places=True) == {"task.dataset.path": str(tmp_path)}


def test_predictions_have_the_models_dtype_and_earlier_work_its_key() -> None:
    """Weights written in bfloat16 by an earlier default, thrown away where the model is bfloat16,
    or kept where it is not."""
    sections = ("weight_extrap",)
    before = deciding(values("weight_extrap.dtype=bfloat16"), sections)
    assert deciding(values(), sections) == before
    wide = deciding(values("model.dtype=float32"), sections)
    assert changes(before, wide) == ["weight_extrap.dtype: bfloat16 → float32"]
    for experiment in ("pico", "tiny", "tiny_sharpening"):  # of known figures
        assert composed(f"+experiment={experiment}").weight_extrap.dtype == "bfloat16"


def test_a_field_that_came_later_decides_only_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches finished runs that are trained again for a value that they did not know."""

    monkeypatch.setattr(settings, "_ADDED_KEYS", dict(settings._marked(Schema, ADDED, "")))
    sections = ("early", "late", "inner")
    assert deciding(asdict(Schema()), sections) == {"early": 1}
    assert deciding(asdict(Schema(late=2, inner=Inner([2]))), sections) == {
        "early": 1, "late": 2, "inner.late": [2]
    }  # fmt: skip
