"""Faults caught: a stage that counts as done although something that it reads has changed, and one
that is thrown away for something that decides nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import content
from pipeline.artifacts import read_json, write_json
from pipeline.config import STAGES, MemberConfig
from pipeline.errors import PipelineError
from pipeline.records import load_stage, record
from pipeline.settings import deciding
from pipeline.stages.base import Context
from pipeline.tasks import DatasetConfig, TaskConfig
from tests.report.drawing import undrawn
from tests.stages.contexts import context_of

# Read, and of no effect on what comes out: where things are and what they are called, how much runs
# at once, how often something is written (what of it is missing is seen: test_runner.py).
IDLE = {
    *("run.dir", "run.cache", "run.discard", "dry_run", "stages", "snapshot.export"),
    *("model.name", "model.parameters", "model.attention", "model.trust_remote_code"),
    "model.shape",
    *("algorithm.name", "algorithm.micro_batch", "engine.batch_size", "engine.replicas"),
    *("compute.name", "compute.launcher", "compute.offload", "compute.gradient_checkpointing"),
    *("compute.threads", "compute.vllm_memory", "rl_train.checkpoint_every"),
    *("compute.master_address", "compute.master_port", "compute.hostfile"),
    *("compute.offload_parameters", "compute.vllm_max_model_len"),
    *("compute.vllm_host", "compute.vllm_port", "compute.vllm_group_port"),
    *("compute.vllm_kv_cache_gib", "compute.vllm_sleep"),
    *("rl_train.snapshot_every", "rl_train.validation.every"),
    *("rl_train.validation.problems", "rl_train.validation.samples"),
    *("rl_train.rollouts_kept", "rl_train.snapshot_background", "rl_train.linearity_scalars"),
    "rl_train.steps",  # of a constant schedule
}
# A spec carries the model's section along, of which training reads where the model is.
CARRIED = {"model.dtype", "model.path", "model.revision", "model.package", "model.gguf"}


@pytest.fixture
def run_dir(pico_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico_run, tmp_path / "run"))


def watched(value: Any, read: set[str], path: str = "") -> Any:
    """A configuration that notes in `read` which of its values are looked at."""
    if isinstance(value, dict) and any(dataclasses.is_dataclass(v) for v in value.values()):
        return {key: watched(inner, read, f"{path}.{key}") for key, inner in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    kind = type(value)
    names = {field.name for field in dataclasses.fields(value)}

    def look(self: Any, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name in names and not dataclasses.is_dataclass(found):
            read.add(f"{path}.{name}".lstrip("."))
        return found

    copy: Any = object.__new__(type(kind.__name__, (kind,), {"__getattribute__": look}))
    for name in names:
        inner = watched(object.__getattribute__(value, name), read, f"{path}.{name}".lstrip("."))
        object.__setattr__(copy, name, inner)
    return copy


def covered(context: Context, name: str) -> Iterator[str]:
    """The values in the key of a stage, those of the stages that it builds on included."""
    stage = load_stage(name)
    yield from deciding(dataclasses.asdict(context.config), stage.SECTIONS)
    for need in stage.needs(context):
        yield from covered(context, need)


def key(context: Context, name: str) -> str:
    return record(context, name).key


def chain(context: Context, name: str) -> list[str]:
    """The keys of a stage and of those that it builds on, as they would be."""
    needs = [inner for need in load_stage(name).needs(context) for inner in chain(context, need)]
    return [key(context, name), *needs]


OTHER: dict[str, Any] = {"evaluate.validation_problems": 5, "rl_train.steps": 4}
OTHER |= {  # in the key where they are not at their default
    "algorithm.advantage": "reinforce_pp",
    "algorithm.dynamic_sampling": 2,
    "algorithm.sft_noise_db": -10.0,
    "algorithm.lora.rank": 4,
    "algorithm.lora.alpha": 8,
    "algorithm.lora.targets": ["q_proj"],
    "compute.grad_accum_dtype": "bfloat16",
    "compute.communication_dtype": "bfloat16",
}
OTHER["logit_extrap.members"] = [MemberConfig("0", -0.5), MemberConfig("4", 1.5)]
OTHER["eval_tasks"] = {"more": TaskConfig(name="more", kind="addition")}


@pytest.mark.parametrize("name", STAGES)
def test_whatever_a_stage_reads_is_in_its_key(name: str, run_dir: Path) -> None:
    """Every value that a stage looks at as it plans and runs, against what makes it stale."""
    context, read = context_of(run_dir), set[str]()
    config = watched(context.config, read)
    stage = load_stage(name)
    stage.plan(dataclasses.replace(context, config=config))
    with undrawn():  # figures are of files alone
        stage.run(dataclasses.replace(context, config=config))
    values = set(covered(context, name))
    carried = CARRIED if name in ("sft_train", "rl_train") else set()
    written = {"rl_train.snapshot_every"} if name == "rl_train" else set()  # seen by `standing`
    for value in sorted(read - IDLE - carried - written):
        if value.startswith("estimates."):  # which of them a dry run reads, the machine decides
            continue
        if value in values or any(key.startswith(f"{value}.") for key in values):
            continue
        changed = context_of(run_dir, **{value.replace(".", "__"): OTHER[value]})
        assert chain(changed, name) != chain(context, name), f"{name} reads {value}"


def put(file: Path, rows: list[tuple[str, str]]) -> None:
    lines = (json.dumps({"problem": problem, "answer": answer}) for problem, answer in rows)
    file.write_text("".join(f"{line}\n" for line in lines))


ROWS = [(f"{number} + 1?", str(number + 1)) for number in range(30)]
OWN = {
    "task__name": "mine",
    "task__kind": "math",
    "task__options": {"chat": False, "splits": {"test": 1.0}},
}
EDITS = {
    "an answer": [*ROWS[:3], ("3 + 1?", "5"), *ROWS[4:]],
    "a problem": [("100 + 1?", "101"), *ROWS[1:]],
    "order": ROWS[::-1],
}
# what linear_probe reads: 8 problems as they are posed
STALE = {"an answer": False, "a problem": True, "order": True}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_data_file_makes_its_stages_stale(
    edit: str, run_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    put(data, ROWS)

    def keys(file: Path, **more: Any) -> dict[str, str]:
        context = context_of(run_dir, **OWN, task__dataset=DatasetConfig(path=str(file)), **more)
        names = ("sft_train", "rl_train", "linear_probe", "logit_extrap", "evaluate")
        return {name: key(context, name) for name in names}

    before = keys(data)
    data.touch()
    assert keys(data) == before
    put(data, EDITS[edit])
    after = keys(data)
    stale = {name for name in before if before[name] != after[name]}
    assert ("linear_probe" in stale) == STALE[edit]
    assert stale | {"linear_probe"} == set(before)
    put(data, ROWS)
    assert keys(data) == before


PROBED = {
    "task.prompt_template": "Say: {problem}",
    "task.system_prompt": "Be brief.",
    "seed": 1,
    "linear_probe.problems": 7,
    "evaluate.test_problems": 9,
}


@pytest.mark.parametrize("value", PROBED)
def test_linear_probe_is_stale_where_its_problems_are_others(
    value: str, run_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    put(data, ROWS)
    given = {**OWN, "task__dataset": DatasetConfig(path=str(data))}
    before = key(context_of(run_dir, **given), "linear_probe")
    other = {**given, value.replace(".", "__"): PROBED[value]}
    assert key(context_of(run_dir, **other), "linear_probe") != before
    same = {**given, "evaluate__samples_per_problem": 3, "evaluate__temperature": 0.5}
    assert key(context_of(run_dir, **same), "linear_probe") == before


def test_another_chat_template_of_the_base_is_seen(run_dir: Path) -> None:
    """The base's own files, which are not among the weights that snapshot records."""
    names = ("linear_probe", "logit_extrap", "evaluate")
    recorded = run_dir / "snapshot" / "trajectory.json"
    trajectory = read_json(recorded)
    base = Path(shutil.copytree(trajectory["base"], run_dir / "base"))
    trajectory["base"] = trajectory["checkpoints"][0]["folder"] = str(base)
    write_json(recorded, trajectory)
    before = [key(context_of(run_dir), name) for name in names]
    (base / "chat_template.jinja").write_text("{{ messages }}")
    after = [key(context_of(run_dir), name) for name in names]
    assert not set(before) & set(after)


def test_a_trajectory_whose_folders_have_gone_is_still_done(run_dir: Path) -> None:
    """A finished run that is kept without its checkpoints."""
    recorded = run_dir / "snapshot" / "trajectory.json"
    before = key(context_of(run_dir), "evaluate")
    trajectory = read_json(recorded)
    for item in trajectory["checkpoints"]:
        item["folder"] = str(run_dir / "gone" / str(item["step"]))
    write_json(recorded, trajectory)
    assert key(context_of(run_dir), "evaluate") == before


def test_the_base_of_a_run_is_known_by_content(run_dir: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(run_dir / "sft_train" / "model", tmp_path / "model"))

    def found() -> str:
        return key(context_of(run_dir, model__path=str(model)), "rl_train")

    before = found()
    (model / "README.md").write_text("nothing that decides")
    (model / "model.safetensors").touch()
    assert found() == before
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    changed = found()
    assert changed != before
    write_json(model / "config.json", read_json(model / "config.json") | {"rope_theta": 7.0})
    assert found() not in (before, changed)


def test_a_large_file_is_hashed_once_over_starts(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes read at every start, or a file that is trusted although it has changed."""
    file = tmp_path / "large.bin"
    read: list[Path] = []

    def hashed(path: Path) -> str:
        read.append(path)
        return f"h{len(read)}"

    file.write_bytes(bytes(100))
    monkeypatch.setattr(content, "REMEMBERED", 10)
    monkeypatch.setattr(content, "hash_file", hashed)

    def start() -> str:
        return context_of(run_dir).hashes(file)

    assert [start(), start()] == ["h1", "h1"]
    file.write_bytes(bytes(101))
    assert [start(), start()] == ["h2", "h2"]
    assert len(read) == 2


def test_a_missing_step_0_says_what_gives_it(run_dir: Path) -> None:
    """Checkpoints without their base: the first thing that every new user meets."""
    with pytest.raises(PipelineError, match=r"no checkpoint of step 0.*1, 2; give snapshot\.base"):
        context_of(run_dir, extrapolation__last=None).ends([1, 2])
