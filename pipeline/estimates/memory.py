"""Bytes that training and sampling hold on one device, by part.

Pure functions of plain numbers. N is the number of weights, R of ranks, w the width of the passes
(2 in bf16, 4 in fp32). tests/estimates compares them with what a process really holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.estimates.shape import Shape

FP32 = 4
BUCKET = 500_000_000  # elements of DeepSpeed's reduce_bucket_size, which is left at its default
PREFETCH = 50_000_000  # elements of ZeRO 3's prefetch bucket, likewise
TILE = (4096, 32768)  # tokens and vocabulary of TRL's tile of logits (trl/kernels/chunked_logprob)
TILE_COPIES = 5  # fp32 temporaries of that tile's gradient where Triton does not fuse them (CPU)


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    rows, tokens: of a micro-batch, tokens of prompt and response of its longest row.
    moments: fp32 numbers that the optimiser keeps a weight. grad_bytes: width in which gradients
    are added up under ZeRO. adapters: weights of LoRA's factors, which alone are trained then;
    0: all are. masked: attention by sdpa, which is given a mask where rows are padded.
    """

    rows: int
    tokens: int
    ranks: int = 1
    zero_stage: int = 0
    bf16: bool = False
    checkpointing: bool = False
    offload: bool = False
    offload_parameters: bool = False
    moments: int = 2
    grad_bytes: int = FP32
    adapters: float = 0.0
    masked: bool = True
    cuda: bool = True

    @property
    def width(self) -> int:
        """Bytes of a number in the passes."""
        return 2 if self.bf16 else FP32


def states(parameters: float, run: Training) -> dict[str, float]:
    """Bytes a device of what outlives a pass: parameters, gradients, optimizer, buffers.

    - Without ZeRO: fp32 weights, gradients and moments, 4 + 4 + 4 m bytes a weight (AdamW: 16); in
      bf16 autocast keeps a cast copy (2). Several ranks hold the gradients a second time, in DDP's
      buckets.
    - ZeRO 1, 2: weights in the precision of the passes on every rank; fp32 masters and moments
      (4 + 4 m) / R. Gradients whole in ZeRO 1, a share in ZeRO 2.
    - ZeRO 3: a share of everything, and the weights in use, gathered.
    - DeepSpeed adds gradients up in buckets of a fixed size, two where communication overlaps
      (CUDA): gigabytes, whatever the model's size. On a CPU an untouched part takes no memory.
    - Offloaded parts lie in host memory.
    """
    n, w = parameters + run.adapters, run.width
    trained = run.adapters or parameters
    share = trained / run.ranks
    if run.zero_stage == 0:
        return {
            "parameters": FP32 * n + (2 * n if run.bf16 else 0.0),
            "gradients": FP32 * trained * (2 if run.ranks > 1 else 1),
            "optimizer": FP32 * run.moments * trained,
            "buffers": 0.0,
        }
    whole = run.zero_stage == 1
    in_flight = FP32 if whole else w
    buffers = in_flight * (2 * BUCKET if run.cuda else min(BUCKET, trained))
    held = w * n
    if run.zero_stage == 3:
        bucket = BUCKET if run.cuda else min(BUCKET, trained)
        buffers = in_flight * bucket + w * min(PREFETCH, n)
        held = 0.0 if run.offload_parameters else w * n / run.ranks
    return {
        "parameters": held,
        "gradients": 0.0 if run.offload else run.grad_bytes * (trained if whole else share),
        "optimizer": 0.0 if run.offload else FP32 * (1 + run.moments) * share,
        "buffers": buffers,
    }


def host_states(parameters: float, run: Training) -> float:
    """Bytes of what is offloaded, in the memory of the machine, for one rank."""
    share = (run.adapters or parameters) / run.ranks
    held = (FP32 * (1 + run.moments) + run.grad_bytes) * share if run.offload else 0.0
    if run.offload_parameters and run.zero_stage == 3:
        held += run.width * (parameters + run.adapters) / run.ranks
    return held


def traffic(parameters: float, run: Training, passes: int) -> float:
    """Bytes that one device sends in an update of `passes` micro-batches (a ring's share: nearly
    all of the weights for each time that they are gathered, or gradients are added up).

    - Without ZeRO: fp32 gradients are added up and handed back, once.
    - ZeRO 1 gathers the new weights, and adds up gradients, once an update; ZeRO 2 adds them up in
      every micro-batch; ZeRO 3 gathers each layer for the forward and the backward pass of it, too.
    """
    if run.ranks == 1:
        return 0.0
    trained, w = run.adapters or parameters, run.width
    ring = (run.ranks - 1) / run.ranks
    if run.zero_stage == 0:
        return ring * 2 * FP32 * trained
    if run.zero_stage == 1:
        return ring * (FP32 + w) * trained
    gathered = 2 * w * (parameters + run.adapters) * passes if run.zero_stage == 3 else w * trained
    return ring * (w * trained * passes + gathered)


def layer_activations(shape: Shape, run: Training) -> float:
    """Bytes that one layer keeps for its backward pass, for one micro-batch.

    What PyTorch saves of transformers' layer, a token, with h = hidden, f = intermediate:

    - each of two norms: its input in fp32 (the sum behind a residual), the normalised input, and
      the output, which the projections read. Autocast normalises in fp32 and casts the output for
      each of the five projections that read it.
    - attention (sdpa, flash): query and output; key and value, repeated to the number of query
      heads (a single one stays as it is, unless it is cast). Scores are recomputed. sdpa keeps the
      mask of padded rows, a number for each pair of positions; flash attention has none.
    - MLP: gate, up, silu(gate) and their product, 4 f; of a mixture for each expert that a token
      passes through, whose input and output are copies.
    """
    w, h = run.width, shape.hidden
    autocast = run.bf16 and run.zero_stage == 0
    norms = 2 * h * FP32 + (2 * h * FP32 + 5 * h * w if autocast else 4 * h * w)
    keys = 1 if shape.kv_heads == 1 and not autocast else shape.heads
    attention = 2 * (shape.heads + keys) * shape.width * w
    mask = run.tokens * w if run.masked and run.rows > 1 else 0
    mlp = (4 * shape.working + 2 * shape.active * h) * w
    return run.rows * run.tokens * (norms + attention + mask + mlp)


def activations(shape: Shape, run: Training) -> float:
    """Bytes of a micro-batch at the start of its backward pass.

    All layers, or with gradient checkpointing the input of each and one layer at work; with that,
    the gradients of the layer at work (about one MLP's), and the head: TRL never holds the logits
    of all tokens, but a tile of them, with fp32 gradients of hidden states and of the head's
    weights beside it.
    """
    rows = run.rows * run.tokens
    residual = FP32 if run.bf16 and run.zero_stage == 0 else run.width
    inside = layer_activations(shape, run)
    layers = shape.layers * (residual * rows * shape.hidden if run.checkpointing else inside)
    if run.checkpointing:
        layers += inside
    backward = 3 * rows * shape.working * run.width
    return layers + max(backward, _head(shape, run))


def _head(shape: Shape, run: Training) -> float:
    rows = run.rows * run.tokens
    tile = min(rows, TILE[0]) * min(shape.vocab, TILE[1])
    folded = tile * run.width if run.cuda else tile * FP32 * TILE_COPIES
    return FP32 * (rows + shape.vocab) * shape.hidden + folded
