"""The schema of every configuration value: types and meaning here, values in `conf/`.

Hydra merges the YAML files into these dataclasses, so a misspelt key or a value of the wrong type
is refused before anything runs; `pipeline.checks` adds what types cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from pipeline.fields import ADDED, IDLE, idle
from pipeline.tasks.task import TaskConfig
from pipeline.training.schema import (
    DEFAULT_HOLD as DEFAULT_HOLD,
)
from pipeline.training.schema import (
    AlgorithmConfig,
    ComputeConfig,
    RlConfig,
    SftConfig,
)

_PACKAGE = Path(__file__).resolve().parent
# A wheel has the YAML files inside the package, a checkout beside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
STAGES = (
    "sft_train",
    "rl_train",
    "snapshot",
    "linear_probe",
    "weight_extrap",
    "logit_extrap",
    "evaluate",
    "report",
)
SHARED_STAGES = ("weight_extrap",)  # that several processes can divide among them
DTYPES = ("bfloat16", "float16", "float32")


@dataclass
class RunConfig:
    dir: str = MISSING  # where this run's artefacts go
    cache: str = MISSING  # what several runs share: converted models, the tiny base model
    shared: str | None = None  # finished stages that several runs share; null: a sweep's own
    discard: bool = False  # set aside more than a minute of work that other values have made
    part: str | None = None  # INDEX/COUNT: this process draws that part of an evaluation


@dataclass
class ModelConfig:
    name: str = idle(MISSING)
    path: str | None = None  # folder or hub id; null: sft_train makes the model
    revision: str | None = None
    package: str | None = None  # a Python package that ships the weights as GGUF
    gguf: str | None = None  # the file's name in that package
    architecture: dict[str, Any] = field(default_factory=dict)  # of a model made from scratch
    parameters: float | None = idle(None)  # for estimates before a download
    shape: dict[str, Any] = field(default_factory=dict, metadata={IDLE: True})  # likewise
    dtype: str = "bfloat16"  # weights and activations in generation and scoring
    attention: str = idle("sdpa")
    trust_remote_code: bool = idle(False)


@dataclass
class EngineConfig:
    name: str = MISSING  # hf or vllm
    batch_size: int = idle(256)  # sequences at once
    tensor_parallel: int = idle(1)
    replicas: int | None = idle(None)  # engines side by side; null: visible GPUs / tensor_parallel
    gpu_memory_utilization: float = idle(0.9)
    max_model_len: int | None = idle(None)
    enforce_eager: bool = idle(False)
    kv_cache_gib: float = idle(1.0)  # CPU build of vLLM only


@dataclass
class TrackingConfig:
    mode: str = MISSING  # online, offline or disabled
    project: str = "rl-extrapolation"
    entity: str | None = None
    group: str | None = None  # default: the experiment's name
    tags: list[str] = field(default_factory=list)


@dataclass
class SnapshotConfig:
    source: str | None = None  # default: what rl_train wrote
    base: str | None = None  # default: the model rl_train started from, or the first step
    export: list[int] = field(default_factory=list, metadata={IDLE: True})  # steps, as HF folders
    checkpoints: Any = None  # {step: path}, not by name (a typed map could not be overridden)
    rename: Any = None  # {beginning of tensors' names: the base's, or null to leave them out}
    only_in_base: str = "refuse"  # keep: tensors and rows that only the base has are taken from it


@dataclass
class ProbeConfig:
    min_change: float = 1e-4
    min_unique: int = 4
    problems: int = 64
    responses_per_problem: int = 4
    max_response_tokens: int = 1024
    max_tokens: int = 100_000
    min_logprob_change: float = 0.2
    activations: bool = True  # hidden states of the same texts; needs the base model twice in fp32
    activation_tokens: int = 1024  # positions at which they are measured
    min_activation_change: float = 0.01  # of the layer's median |hidden state|


@dataclass
class MethodConfig:
    """One of several methods; its name, of its folder and in scores, is its key."""

    name: str | None = None  # what its file calls it where it is the only one
    method: str = MISSING
    hold: list[str] | None = None  # null: extrapolation.hold
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExtrapolationConfig:
    """What all methods share (first, last, hold), and the method where there is one only."""

    name: str = MISSING  # of the output folder: one for each method and set of options
    method: str = MISSING
    first: int = 0
    last: int | None = None  # default: the last step there is
    hold: list[str] = field(default_factory=lambda: [DEFAULT_HOLD])
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class WeightExtrapConfig:
    targets: list[int] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)  # where targets is empty
    write: bool = True  # false: only the recipe; evaluate builds the weights in memory
    dtype: str = "bfloat16"  # conf/config.yaml: as model.dtype


@dataclass
class MemberConfig:
    """One model of a mixture of logits, and what its logits are multiplied by."""

    model: str = MISSING  # a step of the run, a folder or a hub id
    coefficient: float = MISSING


@dataclass
class LogitExtrapConfig:
    alphas: list[float] = field(default_factory=list)
    members: list[MemberConfig] = field(  # see evaluation/members.py
        default_factory=list, metadata={ADDED: True}
    )
    speculative: int = 0  # tokens the later model drafts; 0: both models in lockstep


@dataclass
class EvaluateConfig:
    samples_per_problem: int = MISSING
    validation_problems: int | None = None
    test_problems: int | None = None
    checkpoints: list[int] | None = None  # steps of RL to evaluate; null: all
    models: Any = None  # {name: folder, hub id or {method, target}}; see evaluation/named_models.py
    pass_k: list[int] = field(default_factory=lambda: [1])
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    bootstrap: int = 10_000  # random sign flips behind the p-value of a difference
    controls: bool = True  # the reported models greedy and at lower temperatures, too
    control_temperatures: list[float] | None = None  # null: 0.3 and 0.6 of evaluate.temperature
    control_samples: int = 4  # responses to a problem at each of them (greedy: 1)


@dataclass
class EstimatesConfig:
    """What a dry run takes for granted; null: as pipeline/estimates/speed.py says."""

    device: str | None = idle(None)  # h100, h200, a100, cpu; null: the one here, else compute's
    memory_gb: float | None = idle(None)  # of a device
    tflops: float | None = idle(None)  # peak of a device (of a core on a CPU) in the passes' dtype
    bandwidth_gb: float | None = idle(None)  # of its memory, a second
    utilisation: float | None = idle(None)  # share of tflops in training and scoring
    decoding: float | None = idle(None)  # share of bandwidth while sampling
    disk_gb: float | None = idle(None)  # a second


@dataclass
class PipelineConfig:
    name: str = MISSING
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    seed: int = 0
    dry_run: bool = False
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)  # trained on
    eval_tasks: dict[str, TaskConfig] = field(default_factory=dict)  # empty: the task's test split
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    extrapolation: ExtrapolationConfig = field(default_factory=ExtrapolationConfig)
    extrapolations: dict[str, MethodConfig] = field(default_factory=dict)  # empty: the one above
    sft_train: SftConfig = field(default_factory=SftConfig)
    rl_train: RlConfig = field(default_factory=RlConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    linear_probe: ProbeConfig = field(default_factory=ProbeConfig)
    weight_extrap: WeightExtrapConfig = field(default_factory=WeightExtrapConfig)
    logit_extrap: LogitExtrapConfig = field(default_factory=LogitExtrapConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    estimates: EstimatesConfig = field(default_factory=EstimatesConfig)


def register() -> None:
    """Put the schema into Hydra's store, under the name that conf/config.yaml extends.

    Options are open: which ones there are depends on the task or the method, whose code refuses
    unknown ones. So the command line may set any of them without a `+`.
    """
    from hydra.core.config_store import ConfigStore

    schema = OmegaConf.structured(PipelineConfig)
    maps = (schema.eval_tasks, schema.extrapolations)
    for free in (schema.task.options, schema.extrapolation.options, *maps):
        OmegaConf.set_struct(free, False)
    ConfigStore.instance().store(name="schema", node=schema)
