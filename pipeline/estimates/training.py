"""Estimates of the stages that train, as a dry run prints them."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.estimates import memory
from pipeline.estimates.memory import Training
from pipeline.estimates.setting import Setting, local_folder, setting_of
from pipeline.estimates.speed import Read, decoding_seconds, pass_flops, training_seconds
from pipeline.estimates.words import duration, lines, number, out_of, size
from pipeline.estimates.words import memory as memory_line
from pipeline.subject.found import Subject
from pipeline.training.check import engine_tokens, micro_batches
from pipeline.training.disk import KEPT, MOMENTS, checkpoint_width
from pipeline.training.spec import Architecture, RlSpec, SftSpec, build

UNKNOWN = "memory and time: give model.parameters, and model.shape for activations and KV cache"


def sft_train(subject: Subject, spec: SftSpec) -> str:
    """Memory, disk, tokens and time of making the base model; "" but in a dry run."""
    if not subject.config.dry_run:
        return ""
    setting = setting_of(subject.config, None)
    if setting.parameters is None:
        return lines(UNKNOWN)
    made = build(Architecture, spec.model.architecture, "model.architecture")
    longest = made.max_positions  # a model from scratch has no more
    micro, _ = micro_batches(spec)
    run = Training(rows=micro, tokens=longest, cuda=setting.device != "cpu")
    tokens = float(spec.steps * spec.sft_train.batch_size * longest)
    forward = pass_flops(setting.parameters, setting.shape, tokens, longest)
    seconds = training_seconds(forward, False, setting.training, 1)
    return lines(
        memory_line("training", training_parts(setting, run), setting.memory),
        f"disk: the model {size(4 * setting.parameters)}, up to 3 checkpoints of "
        f"{size(12 * setting.parameters)}",
        f"tokens: at most {number(tokens)}",
        f"time on a {setting.device}: at most {duration(seconds)} and the start",
    )


def rl_train(subject: Subject, spec: RlSpec) -> str:
    """Memory, tokens and time of the RL run, every response at its limit; "" but in a dry run.

    Disk is in the words of the plan (`pipeline.training.disk`).
    """
    if not subject.config.dry_run:
        return ""
    setting = setting_of(subject.config, local_folder(subject))
    if setting.parameters is None:
        return lines(UNKNOWN)
    run = training_run(spec, setting)
    trained = training_parts(setting, run)
    engine = _rollout_memory(setting, spec, run)
    asleep = spec.compute.vllm_rollouts and spec.compute.vllm_sleep
    texts = [memory_line("training", trained, setting.memory)]
    if engine:
        what = "rollouts" if asleep else "rollouts beside it"
        if _room(setting, spec, run) == 0:
            what += ", no room for one response at its limit (raise compute.vllm_tensor_parallel)"
        texts.append(memory_line(what, engine, setting.memory))
        held = {k: v for k, v in trained.items() if k != "activations"}
        peak = max(sum(trained.values()), sum(held.values()) + sum(engine.values()))
        if spec.compute.vllm_rollouts and not asleep:  # what it has reserved stays
            peak = sum(trained.values()) + sum(engine.values())
        texts.append(f"peak a device: {out_of(peak, setting.memory)}")
    if host := memory.host_states(setting.parameters, run):
        texts.append(f"host memory a process, offloaded: {size(host)}")
    if setting.shape is None:
        texts.append("without activations and KV cache: give model.shape")
    if subject.config.model.parameters is None:
        texts.append(_disk(subject, setting.parameters))
    return lines(*texts, _network(setting, spec, run), *_tokens_and_time(setting, spec, run))


def _network(setting: Setting, spec: RlSpec, run: Training) -> str:
    assert setting.parameters is not None
    _, passes = micro_batches(spec)
    sent = spec.algorithm.updates_per_step * memory.traffic(setting.parameters, run, passes)
    return f"network: each device sends {size(sent)} a step, in updates" if sent else ""


def _disk(subject: Subject, parameters: float) -> str:
    """What the words of the plan say where `model.parameters` is given."""
    rl = subject.config.rl_train
    snapshot = parameters * (4 if rl.snapshot_dtype.endswith("float32") else 2)
    checkpoint = parameters * checkpoint_width(subject.config)
    kept = min(KEPT, rl.steps // rl.checkpoint_every)
    count = rl.steps // rl.snapshot_every
    return (
        f"disk: {size(count * snapshot)} of snapshots, {size(kept * checkpoint)} of {kept} "
        "checkpoints"
    )


def training_run(spec: RlSpec, setting: Setting) -> Training:
    """How `spec` trains, its rows at their longest."""
    compute, lora, shape = spec.compute, spec.algorithm.lora, setting.shape
    adapters = shape.adapter_parameters(lora.rank, lora.targets) if shape is not None else 0
    micro, _ = micro_batches(spec)
    return Training(
        rows=micro,
        tokens=_row_tokens(spec),
        ranks=compute.world_size,
        zero_stage=compute.zero_stage,
        bf16=compute.bf16,
        checkpointing=compute.gradient_checkpointing,
        offload=compute.offload,
        offload_parameters=compute.offload_parameters,
        moments=MOMENTS.get(spec.algorithm.optimizer, 0),
        grad_bytes=4 if compute.grad_accum_dtype == "float32" else 2,
        adapters=float(adapters),
        masked=not spec.model.attention.startswith("flash"),
        cuda=setting.device != "cpu",
    )


def training_parts(setting: Setting, run: Training) -> dict[str, float]:
    """Bytes a device by part; activations where the shape is known."""
    assert setting.parameters is not None
    parts = memory.states(setting.parameters, run)
    if setting.shape is not None:
        parts["activations"] = memory.activations(setting.shape, run)
        if run.zero_stage == 3:  # the layer at work is gathered
            parts["buffers"] += run.width * setting.shape.layer_parameters
    return parts


def _row_tokens(spec: RlSpec) -> int:
    """Prompt and response at their limits; a model from scratch has fewer positions than that."""
    longest = spec.task.max_prompt_tokens + spec.algorithm.max_response_tokens
    positions = spec.model.architecture.get("max_positions")
    return min(longest, positions) if isinstance(positions, int) and positions > 0 else longest


def _rollout_memory(setting: Setting, spec: RlSpec, run: Training) -> Mapping[str, float]:
    """vLLM's share of a device, or the cache of transformers' generate, which shares the weights;
    nothing where a server rolls out."""
    compute, algorithm = spec.compute, spec.algorithm
    assert setting.parameters is not None
    if algorithm.trainer == "sft" or (compute.vllm_host is not None and compute.vllm_rollouts):
        return {}
    if compute.vllm_rollouts:
        weights = setting.parameters * run.width / compute.vllm_tensor_parallel
        if setting.memory is None:
            return {"parameters": weights, "KV cache": compute.vllm_kv_cache_gib * 2**30}
        reserved = compute.vllm_memory * setting.memory
        return {"parameters": weights, "KV cache": max(0.0, reserved - weights)}
    if setting.shape is None:
        return {"KV cache": 0.0}
    rows = algorithm.prompts_per_step * algorithm.rollouts_per_prompt // compute.world_size
    return {"KV cache": float(rows * run.tokens * setting.shape.cache_bytes(run.width))}


def _room(setting: Setting, spec: RlSpec, run: Training) -> int | None:
    """Responses at their limit that vLLM's cache has room for at once; None where there is none."""
    compute, shape = spec.compute, setting.shape
    cache = _rollout_memory(setting, spec, run).get("KV cache")
    if not compute.vllm_rollouts or cache is None or shape is None:
        return None
    row = min(engine_tokens(spec), run.tokens) * shape.cache_bytes(run.width)
    return int(cache * compute.vllm_tensor_parallel / row)


def _tokens_and_time(setting: Setting, spec: RlSpec, run: Training) -> list[str]:
    algorithm, compute, steps = spec.algorithm, spec.compute, spec.steps
    size_, shape, world = setting.parameters, setting.shape, compute.world_size
    assert size_ is not None
    rollouts = algorithm.prompts_per_step * algorithm.rollouts_per_prompt
    response = min(algorithm.max_response_tokens, run.tokens - 1)
    forward = pass_flops(size_, shape, rollouts * run.tokens, run.tokens)
    update = training_seconds(forward, run.checkpointing, setting.training, world)
    if algorithm.updates_per_step > 1:  # log-probs under the weights that drew
        update += forward / (setting.training.flops * world)
    engines = max(1, world // compute.vllm_tensor_parallel) if compute.vllm_rollouts else world
    share = rollouts / engines
    room = _room(setting, spec, run)
    at_once = int(share) if room is None else min(int(share), room)
    work = (share, max(1, at_once), float(run.tokens - response), float(response))
    speed = setting.training.times(compute.vllm_tensor_parallel if compute.vllm_rollouts else 1)
    if algorithm.trainer == "sft":
        return [
            f"tokens: at most {number(steps * rollouts * run.tokens)}",
            f"time on {world} x {setting.device}: at most {duration(steps * update)} and the start",
        ]
    generate = decoding_seconds(Read.of([(size_, shape)], run.width), work, speed)
    again = "; more where groups are drawn again" * bool(algorithm.dynamic_sampling)
    return [
        f"tokens: {number(rollouts * response)} a step, {number(steps * rollouts * response)} in "
        f"all, every response at its limit{again}",
        f"time on {world} x {setting.device}: {duration(steps * (generate + update))} at that "
        f"length (a step: rollouts {duration(generate)}, updates {duration(update)}), without "
        "grading and the start",
    ]
