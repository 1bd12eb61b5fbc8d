"""Supervised training with noise of random sign on the loss of every token: the published control.

RL's path is straighter than SFT's, the argument goes, since its signal is noisy (arXiv 2601.04537).
The control makes SFT noisy: the loss of a token is multiplied by 1 + a s, s = ±1 at random, so that
noise a s l and signal l stand at -20 log10(a) dB. (A term that does not depend on the weights would
have no gradient, so the noise is proportional to the loss.)

The signs of a row come from seed, step and the row's tokens, so they do not depend on ranks,
micro-batches or resuming.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch

from pipeline.training.callbacks import WholeCheckpoints
from pipeline.training.trl_trainers import SFTTrainer


class Sft(WholeCheckpoints, SFTTrainer):
    """SFTTrainer with whole checkpoints; `noise_db` is set by whoever builds it."""

    noise_db: float | None = None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if self.noise_db is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        signs = token_signs(inputs, self.args.seed, self.state.global_step)
        scale = 10.0 ** (-self.noise_db / 20.0)
        seen: list[Any] = []
        handle = model.register_forward_hook(lambda module, args, outputs: seen.append(outputs))
        try:
            loss = super().compute_loss(model, inputs, False, num_items_in_batch)
        finally:
            handle.remove()
        log_probs, mask = seen[0].log_probs, seen[0].label_mask
        own = mask.sum() if num_items_in_batch is None else num_items_in_batch
        noise = (-log_probs * signs.to(log_probs)).sum() / torch.as_tensor(own).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            noise = noise * self.accelerator.num_processes  # as TRL does with the loss
        return loss + scale * noise


def token_signs(inputs: dict[str, Any], seed: int, step: int) -> torch.Tensor:
    """±1 for every trained token, 0 elsewhere: [rows, length - 1], fp32.

    Args:
        inputs: input_ids, labels [rows, length]; labels are -100 where nothing is trained.
    """
    ids, targets = inputs["input_ids"].cpu(), inputs["labels"][:, 1:].cpu()
    signs = torch.zeros(targets.shape)
    present = inputs["attention_mask"].cpu().bool()
    for row, (tokens, here) in enumerate(zip(ids, present, strict=True)):
        content = f"{seed}/{step}/{tokens[here].tolist()}"
        rng = torch.Generator().manual_seed(zlib.crc32(content.encode()))
        trained = targets[row] != -100
        draws = torch.randint(2, (int(trained.sum()),), generator=rng)
        signs[row, trained] = draws * 2.0 - 1.0
    return signs
