"""The arithmetic of the core, compiled: all that is done with a piece, in one walk through it.

A piece is walked in blocks that stay in the first-level cache, so memory is touched twice, when a
piece is read and when it is written, whatever the number of checkpoints and targets; torch would
walk through memory once for each operation. A loop widens, computes, rounds and looks for what is
not finite at once, 8 numbers an instruction. What keeps LLVM from vector instructions: a sum or
flag that numba takes for 64 bits (hence the casts), more than four arrays in a loop (it cannot tell
whether they overlap; rows at fixed distances in one array it can), and branches. Nothing is fused
into one rounding or reordered except inside `dot`, so results are those of the same operations in
numpy or torch, to the bit.

A file holds what is done for one purpose: `sums` write predictions, `moments` Gram matrices,
`fits` R² on the steps, `distinct` counts values, `probe` walks once for all three, `gated`
scales a prediction by its fit, `cells` fill histograms. `floats` widen and round, `store` compiles
and keeps machine code.

Shapes: `values` [K, n] are the K checkpoints' values of n scalars, C-contiguous: uint16 that hold
bf16, or fp32. `movements` says that rows 1..K-1 are already differences to row 0.
"""

from pipeline.trajectory.kernels.cells import count_cells
from pipeline.trajectory.kernels.fits import step_weights
from pipeline.trajectory.kernels.flags import KEPT, MOVING
from pipeline.trajectory.kernels.gated import combine_gated
from pipeline.trajectory.kernels.moments import moments
from pipeline.trajectory.kernels.probe import linearity
from pipeline.trajectory.kernels.sums import combine

__all__ = [
    "KEPT",
    "MOVING",
    "combine",
    "combine_gated",
    "count_cells",
    "linearity",
    "moments",
    "step_weights",
]
