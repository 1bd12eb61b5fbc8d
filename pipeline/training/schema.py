"""The schema of what training is told: algorithm, processes, and the two stages that train.

Part of `pipeline.config`; values in `conf/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.fields import ADDED, added, idle

DEFAULT_HOLD = "*norm*"


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
class ComputeConfig:
    name: str = idle(MISSING)
    launcher: str = idle("none")  # none: in this process; deepspeed; torchrun; srun (under Slurm)
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
