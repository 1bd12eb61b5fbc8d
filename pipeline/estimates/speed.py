"""How long it takes: arithmetic and bytes over stated throughputs.

Peak figures are the makers', dense (datasheets give twice that with sparsity). Shares of the peak
that a run reaches are assumptions, marked so; `estimates.*` overrides any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    # NVIDIA A100 SXM 40 GB datasheet: as with 80 GB, 1.555 TB/s
    "a100_40": Device(40e9, 312e12, 19.5e12, 1.555e12),
    # assumption: one core with 256-bit FMA, at 3 GHz 96 GFLOP/s; bf16 no faster; 10 GB/s a core
    "cpu": Device(None, 96e9, 96e9, 10e9),
}
# share of peak FLOP/s. Measured in training: 0.25 to 0.27 of an H200 (1.8 G parameters, rows of
# 18,432 tokens, sdpa with a mask, checkpointing; docs/gpu.md). An assumption in scoring.
UTILISATION = 0.27
DECODING = 0.5  # assumption: share of the memory's bandwidth while sampling
DISK = 1e9  # assumption: bytes/s of reading and writing checkpoints
TEXT = 4.0  # assumption: bytes of a token's text in a file of responses


@dataclass(frozen=True)
class Speed:
    """What a run is taken to reach on each of its devices: FLOP/s, bytes/s of memory and disk."""

    flops: float
    bandwidth: float
    disk: float

    def times(self, devices: int) -> Speed:
        """Of so many that share a model."""
        return replace(self, flops=self.flops * devices, bandwidth=self.bandwidth * devices)


def pass_flops(parameters: float, shape: Shape | None, tokens: float, length: float) -> float:
    """FLOP of a forward pass over `tokens`, in rows of `length`: 2 a weight and token (of a mixture
    of experts, of the weights that a token passes through), and for each token 2 x 2 x width x
    heads x (half the length) a layer of attention."""
    read = Read.of([(parameters, shape)], 0)
    return tokens * (read.flops + read.attention * length)


def training_seconds(flops: float, checkpointing: bool, speed: Speed, devices: int) -> float:
    """Seconds of forward and backward passes (twice a forward pass; thrice where it is repeated).

    Args:
        flops: of the forward pass.
    """
    return flops * (4 if checkpointing else 3) / (speed.flops * devices)


@dataclass(frozen=True)
class Read:
    """What sampling reads: weights for each position of a batch, `cache` bytes for each token that
    a sequence has behind it. Of the models of a mixture these are sums.

    flops: of arithmetic for a token; attention: of that to each position of its row (half of them,
    where it is the row's average).
    """

    weights: float
    cache: float
    flops: float
    attention: float

    @staticmethod
    def of(models: Sequence[tuple[float, Shape | None]], width: int) -> Read:
        """Of models by their parameters and shapes, with numbers of `width` bytes."""
        known = [shape for _, shape in models if shape is not None]
        return Read(
            sum(parameters * width for parameters, _ in models),
            float(sum(shape.cache_bytes(width) for shape in known)),
            sum(2 * n * (1.0 if shape is None else shape.used) for n, shape in models),
            float(sum(2 * shape.layers * shape.heads * shape.width for shape in known)),
        )


def decoding_seconds(read: Read, work: tuple[float, int, float, float], speed: Speed) -> float:
    """Seconds to sample on one device, whose weights are read once for each position, and whose
    cache is read for each token; arithmetic where that is slower.

    Args:
        work: (sequences, most at once, prompt tokens, response tokens).
    """
    sequences, most, prompt, response = work
    at_once = min(sequences, most)
    waves = sequences / max(at_once, 1)
    bytes_read = read.weights + at_once * read.cache * (prompt + response / 2)
    step = max(bytes_read / speed.bandwidth, at_once * read.flops / speed.flops)
    prefill = sequences * prompt * (read.flops + read.attention * prompt) / speed.flops
    return waves * response * step + prefill
