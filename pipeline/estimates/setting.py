"""What a run's estimates are made of: its model's shape, its devices and what they reach."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import PipelineConfig
from pipeline.estimates.shape import Shape, shape_of
from pipeline.estimates.speed import DECODING, DEVICES, DISK, UTILISATION, Device, Speed
from pipeline.hardware import gpu_name, gpus
from pipeline.subject.found import Subject
from pipeline.training.check_algorithm import one_of

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Setting:
    """parameters: all weights, None where nobody says; memory: bytes of a device; engines: that
    sample side by side."""

    device: str
    memory: float | None
    parameters: float | None
    shape: Shape | None
    training: Speed
    sampling: Speed
    engines: int


def setting_of(config: PipelineConfig, folder: Path | None) -> Setting:
    """The setting of a run.

    Args:
        folder: of the base model, where it is local.

    Raises:
        PipelineError: an unknown device, a broken model.shape or config.json.
    """
    given = config.estimates
    name = given.device or _device(config)
    one_of("estimates.device", name, tuple(DEVICES))
    device = DEVICES[name]
    shape = shape_of(config.model, folder)
    size = config.model.parameters if shape is None else float(shape.parameters)
    memory = device.memory if given.memory_gb is None else given.memory_gb * 1e9
    half = config.compute.bf16, WIDTHS[config.model.dtype] == 2
    training, sampling = (_speed(config, device, name, narrow) for narrow in half)
    return Setting(name, memory, size, shape, training, sampling, _engines(config, name))


def _engines(config: PipelineConfig, device: str) -> int:
    """As configured; else one for each GPU that is here, or that training has elsewhere."""
    engine = config.engine
    if engine.replicas is not None or device == "cpu":
        return engine.replicas or 1
    each = engine.tensor_parallel if engine.name == "vllm" else 1
    return max(1, (gpus() or config.compute.processes) // each)


def parts(config: PipelineConfig) -> int:
    """Jobs that submit.sh deals an evaluation over: as many as training has nodes."""
    return config.compute.nodes if config.compute.launcher == "srun" else 1


def _device(config: PipelineConfig) -> str:
    """The GPU that is here; else an H100 for ranks in bf16, which are meant for a cluster."""
    found = (gpu_name() or "").lower()
    known = next((name for name in DEVICES if name in found), None)
    if known == "a100" and "40gb" in found:
        known = "a100_40"
    if known is not None:
        return known
    compute = config.compute
    return "h100" if found or (compute.bf16 and compute.launcher != "none") else "cpu"


def _speed(config: PipelineConfig, device: Device, name: str, narrow: bool) -> Speed:
    """What one process reaches: a GPU, or the CPU cores that it has."""
    given, compute = config.estimates, config.compute
    cores = 1
    if name == "cpu":
        cores = compute.threads or max(1, len(os.sched_getaffinity(0)) // compute.processes)
    peak = device.bf16 if narrow else device.fp32
    flops = peak if given.tflops is None else given.tflops * 1e12
    bandwidth = device.bandwidth if given.bandwidth_gb is None else given.bandwidth_gb * 1e9
    share = UTILISATION if given.utilisation is None else given.utilisation
    decoding = DECODING if given.decoding is None else given.decoding
    disk = DISK if given.disk_gb is None else given.disk_gb * 1e9
    return Speed(flops * share * cores, bandwidth * decoding * cores, disk)


def local_folder(subject: Subject) -> Path | None:
    """Where the base model's config.json is, or will be, without a download."""
    path = subject.config.model.path
    folder = Path(path).expanduser() if path else subject.stage_dir("sft_train") / "model"
    return folder if (folder / "config.json").exists() else None
