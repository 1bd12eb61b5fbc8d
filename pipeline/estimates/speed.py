"""How long it takes: arithmetic and bytes over stated throughputs.

Peak figures are the makers', dense (datasheets give twice that with sparsity). Shares of the peak
that a run reaches are assumptions, marked so; `estimates.*` overrides any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.estimates.shape import Shape


@dataclass(frozen=True)
class Device:
    """One accelerator, or one CPU core.

    memory: bytes, None: not stated; bf16, fp32: peak FLOP/s; bandwidth: bytes/s of its memory.
    """

    memory: float | None
    bf16: float
    fp32: float
    bandwidth: float


DEVICES = {
    # NVIDIA H100 SXM datasheet: 989 TFLOP/s bf16 dense, 67 fp32, 80 GB, 3.35 TB/s
    "h100": Device(80e9, 989e12, 67e12, 3.35e12),
    # NVIDIA H200 SXM datasheet: as H100, 141 GB, 4.8 TB/s
    "h200": Device(141e9, 989e12, 67e12, 4.8e12),
    # NVIDIA A100 SXM 80 GB datasheet: 312 TFLOP/s bf16 dense, 19.5 fp32, 2.04 TB/s
    "a100": Device(80e9, 312e12, 19.5e12, 2.04e12),
    # assumption: one core with 256-bit FMA, at 3 GHz 96 GFLOP/s; bf16 no faster; 10 GB/s a core
    "cpu": Device(None, 96e9, 96e9, 10e9),
}
UTILISATION = 0.35  # assumption: share of peak FLOP/s in training and in scoring
DECODING = 0.5  # assumption: share of the memory's bandwidth while sampling
DISK = 1e9  # assumption: bytes/s of reading and writing checkpoints
TEXT = 4.0  # assumption: bytes of a token's text in a file of responses


@dataclass(frozen=True)
class Speed:
    """What a run is taken to reach on each of its devices: FLOP/s, bytes/s of memory and disk."""

    flops: float
    bandwidth: float
    disk: float


def pass_flops(parameters: float, shape: Shape | None, tokens: float, length: float) -> float:
    """FLOP of a forward pass over `tokens`, in rows of `length`: 2 a weight and token, and for each
    token 2 x 2 x width x heads x (half the length) a layer of attention."""
    attention = 0.0
    if shape is not None:
        attention = 2 * shape.layers * shape.heads * shape.width * length
    return tokens * (2 * parameters + attention)


def training_seconds(flops: float, checkpointing: bool, speed: Speed, devices: int) -> float:
    """Seconds of forward and backward passes (twice a forward pass; thrice where it is repeated).

    Args:
        flops: of the forward pass.
    """
    return flops * (4 if checkpointing else 3) / (speed.flops * devices)


def decoding_seconds(
    parameters: float,
    shape: Shape | None,
    work: tuple[float, int, float, float],
    width: int,
    speed: Speed,
) -> float:
    """Seconds to sample on one device, whose weights are read once for each position, and whose
    cache is read for each token; arithmetic where that is slower.

    Args:
        parameters: read for each position, of both models of a mixture.
        work: (sequences, most at once, prompt tokens, response tokens).
    """
    sequences, most, prompt, response = work
    at_once = min(sequences, most)
    waves = sequences / max(at_once, 1)
    cache = 0.0 if shape is None else shape.cache_bytes(width) * (prompt + response / 2)
    bytes_read = parameters * width + at_once * cache
    step = max(bytes_read / speed.bandwidth, at_once * 2 * parameters / speed.flops)
    prefill = pass_flops(parameters, shape, sequences * prompt, prompt) / speed.flops
    return waves * response * step + prefill
