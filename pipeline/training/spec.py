"""What a training process is told: plain dataclasses that survive a trip through JSON.

The launcher writes a spec beside the run's files and every rank reads it back, so a training
process knows nothing of Hydra, and a run can be repeated by hand from its `spec.json`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pipeline.artifacts import hash_json, read_own, write_json
from pipeline.config import CONSTANT_SCHEDULES, RegroundConfig
from pipeline.content import data_content, model_content
from pipeline.errors import PipelineError
from pipeline.fields import check_fields

# How a snapshot is stored: a whole model, or (DELTA) its difference from the base model.
DELTA = "delta_"
_DECIDING_COMPUTE = ("processes", "nodes", "zero_stage", "bf16")
SNAPSHOT_DTYPES = ("float32", "bfloat16", "float16", f"{DELTA}bfloat16", f"{DELTA}float32")


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
class TaskSpec:
    """Which problems to train on: the arguments of `pipeline.tasks.load_problems`."""

    name: str
    kind: str | None = None  # None: the name
    dataset: dict[str, Any] | None = None
    prompt_template: str | None = None
    system_prompt: str | None = None
    grade_after: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    split: str = "train"
    problems: int | None = None  # None: the whole split
    seed: int = 0
    max_prompt_tokens: int = 2048  # longer prompts are left out


@dataclass(frozen=True)
class Compute:
    """Processes, precision and memory."""

    launcher: str = "none"
    processes: int = 1  # per node
    nodes: int = 1
    master_address: str | None = None  # multi-node torchrun: the rendezvous host
    master_port: int | None = None  # None: a free one (one node only)
    hostfile: str | None = None  # multi-node deepspeed
    zero_stage: int = 0  # 0: plain data parallelism, 1-3: DeepSpeed
    offload_optimizer: bool = False
    offload_parameters: bool = False
    # Compute in bf16; master weights stay fp32. DeepSpeed makes them from the bf16 copy, so there
    # the run starts from the base model rounded to bf16 (nothing is lost if it is stored so).
    bf16: bool = False
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    threads: int | None = None  # CPU threads per process; None: cores shared out evenly

    @property
    def world_size(self) -> int:
        return self.processes * self.nodes


@dataclass(frozen=True)
class Optimizer:
    """Optimiser values shared by both kinds of training."""

    learning_rate: float
    name: str = "adamw_torch"  # any of transformers' `optim` names, e.g. sgd
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class SftSpec:
    """Supervised training on (prompt, answer) pairs; the result is `output`/model."""

    output: str
    task: TaskSpec
    optimizer: Optimizer
    steps: int
    batch_size: int  # pairs per optimiser step, over all processes
    checkpoint_every: int
    model: str | None = None  # a folder or hub id to start from, or
    architecture: Architecture | None = None  # what to make from nothing
    # A base model that knows how but often errs, like a pre-trained one: from step
    # `wrong_from` on, this share of the pairs has another problem's answer.
    wrong_answers: float = 0.0
    wrong_from: int = 0
    micro_batch: int = 1024  # at most so many sequences per forward pass and process
    compute: Compute = field(default_factory=Compute)
    trust_remote_code: bool = False
    seed: int = 0
    kind: str = "sft"


@dataclass(frozen=True)
class RlSpec:
    """RL with a verifiable reward; `output`/snapshots/step_N are the trajectory.

    A step is one batch of rollouts (`prompts_per_step` x `rollouts_per_prompt` responses), however
    many optimiser updates are taken from it: the paper's unit. GSPO, Dr. GRPO, DAPO, CISPO,
    REINFORCE++-baseline (`scale_rewards: batch`) are values; RLOO is `trainer: rloo`.
    """

    output: str
    model: str  # a folder or hub id
    task: TaskSpec
    optimizer: Optimizer
    steps: int
    snapshot_every: int
    checkpoint_every: int
    prompts_per_step: int
    rollouts_per_prompt: int
    max_response_tokens: int
    trainer: str = "grpo"
    loss_type: str = "grpo"
    updates_per_step: int = 1
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    kl_beta: float = 0.0
    importance_sampling_level: str = "token"
    scale_rewards: str = "group"
    mask_truncated: bool = False  # leave responses that hit the limit out of the loss
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    micro_batch: int = 1024  # at most so many sequences per forward pass and process
    rollouts: str = "transformers"
    vllm_memory: float = 0.3  # share of GPU memory, colocate
    vllm_tensor_parallel: int = 1
    vllm_max_model_len: int | None = None
    vllm_host: str = "0.0.0.0"  # server
    vllm_port: int = 8000
    snapshot_dtype: str = "float32"  # one of SNAPSHOT_DTYPES
    reground: RegroundConfig = field(default_factory=RegroundConfig)
    compute: Compute = field(default_factory=Compute)
    trust_remote_code: bool = False
    seed: int = 0
    kind: str = "rl"

    @property
    def rollouts_per_step(self) -> int:
        return self.prompts_per_step * self.rollouts_per_prompt


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
        nested = [t for t in (hints[key], *get_args(hints[key])) if _is_dataclass_type(t)]
        inner = isinstance(value, dict) and nested
        values[key] = build(nested[0], value, f"{where}: {key}") if inner else value
    check_fields(where, values, hints)
    try:
        return cls(**values)
    except TypeError as error:
        raise PipelineError(f"{where}: {error}") from None


def _is_dataclass_type(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def fingerprint(spec: Spec) -> str:
    """Hash of everything that decides the weights: of the model that training starts from and of
    local data files the content.

    A checkpoint may only be resumed under the same fingerprint. Where things lie, what is written
    how often, and in which order the same numbers are added up decide nothing (what that means for
    a configuration: `pipeline.settings`).
    """
    values = asdict(spec)
    data = data_content(spec.task.dataset)
    if data is not None:
        values["task"]["dataset"]["path"] = data
    for key in ("output", "checkpoint_every", "micro_batch", "trust_remote_code"):
        del values[key]
    values["compute"] = {key: values["compute"][key] for key in _DECIDING_COMPUTE}
    values["task"]["options"].pop("workers", None)
    if isinstance(spec, RlSpec):
        for key in ("snapshot_every", "vllm_memory", "vllm_host", "vllm_port"):
            del values[key]
        if spec.optimizer.schedule in CONSTANT_SCHEDULES:
            del values["steps"]  # a shorter run is the beginning of a longer one
    folder = Path(spec.model) if spec.model is not None else None
    if folder is not None and folder.is_dir():
        values["model"] = model_content(folder)
    return hash_json(values)
