"""The schema of every configuration value: types and meaning here, values in `conf/`.

Hydra merges the YAML files into these dataclasses, so a misspelt key or a value of the wrong type
is refused before anything runs; `pipeline.checks` adds what types cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from pipeline.fields import ADDED, IDLE, added, idle
from pipeline.tasks.task import TaskConfig

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
DEFAULT_HOLD = "*norm*"
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
class LoraConfig:
    """Training of adapters alone; the snapshots are adapters, too."""

    rank: int = added(0)  # 0: all weights are trained
    alpha: int = added(32)
    targets: list[str] = field(  # ends of modules' names; all-linear: all matrices but the head
        default_factory=lambda: ["all-linear"], metadata={ADDED: True}
    )


@dataclass
class AlgorithmConfig:
    name: str = idle(MISSING)
    trainer: str = "grpo"  # grpo (all its loss types), rloo, or sft: the task's own answers
    loss_type: str = "grpo"
    learning_rate: float = 1e-6
    optimizer: str = "adamw_torch"  # transformers' names
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    weight_decay: float = 0.0
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    prompts_per_step: int = 128
    rollouts_per_prompt: int = 16
    updates_per_step: int = 1  # optimiser updates from one batch of rollouts
    micro_batch: int = idle(16)  # sequences per forward pass and process
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    kl_beta: float = 0.0
    importance_sampling_level: str = "token"  # "sequence" is GSPO
    scale_rewards: str = "group"  # by the standard deviation of a group's or the batch's rewards
    advantage: str = added("trl")  # or reinforce_pp, reinforce_pp_baseline: training/advantages.py
    dynamic_sampling: int = added(0)  # rounds of replacing groups of equal rewards; 0: kept
    sft_noise_db: float | None = added(None)  # signal to noise of token losses; null: no noise
    lora: LoraConfig = field(default_factory=LoraConfig)
    mask_truncated: bool = False  # leave responses that hit the limit out of the loss
    rollout_correction: str = "off"  # of engine to trainer, by the ratio of each token or sequence
    rollout_correction_cap: float = 3.0  # of that ratio
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    max_response_tokens: int = 1024


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
class ComputeConfig:
    name: str = idle(MISSING)
    launcher: str = idle(
        "none"
    )  # none: in this process; deepspeed; torchrun; srun (in a Slurm job)
    processes: int = 1  # per node
    nodes: int = 1
    master_address: str | None = idle(None)  # several nodes under torchrun: where ranks meet
    master_port: int | None = idle(None)  # null: a free one (one node only)
    hostfile: str | None = idle(None)  # several nodes under deepspeed
    zero_stage: int = 0  # 0: plain data parallelism, 1-3: DeepSpeed
    offload: bool = idle(False)  # optimiser state in host memory
    offload_parameters: bool = idle(False)  # parameters, too (ZeRO-3)
    bf16: bool = False  # passes in bf16, master weights in fp32 (ZeRO: of the base as bf16)
    grad_accum_dtype: str = added("float32")  # ZeRO: in which micro-batches' gradients are added up
    communication_dtype: str = added("float32")  # ZeRO: in which gradients are added over processes
    gradient_checkpointing: bool = idle(False)
    vllm_rollouts: bool = False  # rollouts by vLLM inside the trainer
    vllm_memory: float = idle(0.3)  # its share of GPU memory
    vllm_sleep: bool = idle(False)  # give that memory back while weights are updated (CUDA)
    vllm_tensor_parallel: int = 1  # processes that share an engine
    vllm_max_model_len: int | None = idle(None)  # null: longest prompt and response allowed
    vllm_kv_cache_gib: float = idle(1.0)  # CPU build of vLLM only
    vllm_host: str | None = idle(None)  # of a running `trl vllm-serve`, in place of inside
    vllm_port: int = idle(8000)
    vllm_group_port: int = idle(51216)  # where weights are sent to that server
    threads: int | None = idle(None)  # CPU threads per process; null: cores shared out evenly

    @property
    def world_size(self) -> int:
        return self.processes * self.nodes


@dataclass
class TrackingConfig:
    mode: str = MISSING  # online, offline or disabled
    project: str = "rl-extrapolation"
    entity: str | None = None
    group: str | None = None  # default: the experiment's name
    tags: list[str] = field(default_factory=list)


@dataclass
class SftConfig:
    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    lr_schedule: str = "cosine"
    warmup_steps: int = 0
    split: str = "train"
    problems: int | None = None  # null: all of the split
    wrong_answers: float = 0.0  # share of the pairs with another problem's answer...
    wrong_from: int = 0  # ...from this step on


@dataclass
class GuardConfig:
    problems: int = 0  # of the validation split, answered before and after a jump; 0: no guard
    samples: int = 1  # responses to each
    threshold: float = 0.02  # accuracy that a jump may cost; below 0: that it must gain
    tries: int = 3  # β, then half the way to 1, and again; then the jump is not made


@dataclass
class RegroundConfig:
    """Jumps along the line of the run itself; see pipeline/training/reground.py."""

    every: int | None = None  # M, real steps from jump to jump; null: none
    jump: int = 0  # N, steps that a jump is long
    hold: list[str] = field(default_factory=lambda: [DEFAULT_HOLD])  # tensors that do not jump
    optimizer: str = "keep"  # or reset: moments start anew after a jump, as published
    momentum: float = 0.0  # outer Nesterov momentum over the segments
    adaptive: bool = False  # N times the straightness of the segment
    max_movement: float | None = None  # of a jump, relative to the norm of the weights
    guard: GuardConfig = field(default_factory=GuardConfig)


@dataclass
class ValidationConfig:
    """Accuracy while training, after every so many steps; it decides nothing."""

    every: int | None = idle(None)  # steps; null: not measured
    problems: int = idle(200)  # the first of the validation split
    samples: int = idle(1)  # responses to each


@dataclass
class RlConfig:
    steps: int = MISSING
    snapshot_every: int = idle(MISSING)
    snapshot_dtype: str = "float32"  # of whole models; delta_*: of the difference from the base
    snapshot_background: bool = idle(True)  # deltas are written while training goes on
    checkpoint_every: int = idle(MISSING)
    problems: int | None = None  # null: all of the training split
    linearity_scalars: int = idle(131_072)  # looked at while training, at every snapshot; 0: none
    rollouts_kept: float = idle(0.05)  # share of the groups in rollouts.jsonl
    reground: RegroundConfig = field(default_factory=RegroundConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


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
