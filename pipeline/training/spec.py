"""What a training process is told: sections of the configuration that survive a trip through JSON.

The launcher writes a spec beside the run's files and every rank reads it back, so a training
process composes no configuration, and a run can be repeated by hand from its `spec.json`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pipeline.artifacts import hash_json, read_own, write_json
from pipeline.config import ModelConfig
from pipeline.content import data_content, model_content
from pipeline.errors import PipelineError
from pipeline.fields import check_fields
from pipeline.settings import deciding
from pipeline.tasks.task import TaskConfig
from pipeline.training.schema import AlgorithmConfig, ComputeConfig, RlConfig, SftConfig

DELTA = "delta_"  # how the names of snapshot dtypes begin that store differences from the base


@dataclass(frozen=True)
class Architecture:
    """A model made from nothing, with one token for each character of `characters`.

    The defaults give about a million parameters.
    """

    family: str = "qwen2"  # or llama
    layers: int = 4
    hidden: int = 128
    intermediate: int = 512
    heads: int = 4
    kv_heads: int = 4
    tie_embeddings: bool = True
    max_positions: int = 256
    initializer_range: float = 0.02
    characters: str = "0123456789+-*/=() "


@dataclass(frozen=True)
class SftSpec:
    """Supervised training on (prompt, answer) pairs of a model made from `model.architecture`; the
    result is `output`/model."""

    output: str
    task: TaskConfig
    model: ModelConfig
    sft_train: SftConfig
    compute: ComputeConfig
    seed: int = 0
    kind: str = "sft"

    @property
    def steps(self) -> int:
        return self.sft_train.steps

    @property
    def checkpoint_every(self) -> int:
        return max(1, self.steps // 4)


@dataclass(frozen=True)
class RlSpec:
    """RL with a verifiable reward; `output`/snapshots/step_N are the trajectory.

    A step is one batch of rollouts (`prompts_per_step` x `rollouts_per_prompt` responses), however
    many optimiser updates are taken from it: the paper's unit. GSPO, Dr. GRPO, DAPO, CISPO,
    REINFORCE++-baseline (`scale_rewards: batch`) are values; RLOO is `trainer: rloo`.
    `model.path` is the folder that training starts from.
    """

    output: str
    task: TaskConfig
    model: ModelConfig
    algorithm: AlgorithmConfig
    rl_train: RlConfig
    compute: ComputeConfig
    seed: int = 0
    kind: str = "rl"

    @property
    def steps(self) -> int:
        return self.rl_train.steps

    @property
    def checkpoint_every(self) -> int:
        return self.rl_train.checkpoint_every


Spec = SftSpec | RlSpec
_T = TypeVar("_T")


def write_spec(spec: Spec, path: Path) -> None:
    """Write `spec` as JSON, atomically."""
    write_json(path, asdict(spec))


def read_spec(path: Path) -> Spec:
    """Read a spec; `pipeline.training.check` says whether its values can work.

    Raises:
        PipelineError: the file is missing, or a key is unknown or missing.
    """
    raw = read_own(path)
    kinds: dict[str, type[SftSpec] | type[RlSpec]] = {"sft": SftSpec, "rl": RlSpec}
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind not in kinds:
        raise PipelineError(f"{path}: kind is {kind!r}; set it to one of {sorted(kinds)}")
    return build(kinds[kind], raw, str(path))


def build(cls: type[_T], raw: dict[str, Any], where: str) -> _T:
    """`cls` from JSON, nested dataclasses included.

    Raises:
        PipelineError: an unknown or a missing key, a value of another type; after `where`.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(raw) - set(hints))
    if unknown:
        raise PipelineError(f"{where}: unknown key {unknown[0]!r}; known are {sorted(hints)}")
    values = {}
    for key, value in raw.items():
        kinds = (hints[key], *get_args(hints[key]))
        nested = [kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)]
        inner = isinstance(value, dict) and nested
        values[key] = build(nested[0], value, f"{where}: {key}") if inner else value
    check_fields(where, values, hints)
    try:
        return cls(**values)
    except TypeError as error:
        raise PipelineError(f"{where}: {error}") from None


def fingerprint(spec: Spec) -> str:
    """Hash of everything that decides the weights (`pipeline.settings`): values, and the content of
    the model that training starts from and of local data files.

    A checkpoint may only be resumed under the same fingerprint.
    """
    sections = ("task", "algorithm", "rl_train", "sft_train", "compute", "seed")
    values: dict[str, Any] = deciding(asdict(spec), sections)
    dataset = None if spec.task.dataset is None else asdict(spec.task.dataset)
    values["data"] = data_content(dataset)
    if isinstance(spec, SftSpec):
        values["model"] = spec.model.architecture
    elif spec.model.path is not None and Path(spec.model.path).is_dir():
        values["model"] = model_content(Path(spec.model.path))
    return hash_json(values)
