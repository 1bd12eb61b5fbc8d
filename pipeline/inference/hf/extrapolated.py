"""Logit extrapolation on the HF engine: two checkpoints, one sampled token.

At every position l = l0 + α (l1 - l0) in fp32, then temperature, top-k, top-p and the draw; both
models read the token that was drawn (arXiv 2601.04537, logit extrapolation). The published loop
does one prompt at a time; here the rows of all prompts are decoded together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.inference.hf.engine import HFEngine


class HFExtrapolatedEngine(HFEngine):
    """Engine (see `engine.Engine`) whose logits are l0 + α (l1 - l0)."""

    def __init__(self, first: Path, second: Path, *, alpha: float = 1.0, **options: Any) -> None:
        super().__init__([first, second], [1.0 - alpha, alpha], **options)

    def set_alpha(self, alpha: float) -> None:
        """Change α; takes effect with the next call of `generate` or `score`."""
        self.mixture.coefficients = [1.0 - alpha, alpha]
