"""How TRL's trainers cut a batch of rollouts: whole groups to an update, no padding through the
model, and a measure of how far the engine that drew them is from the model that learns from them.

TRL shuffles the rollouts of a step, so that each of its updates sees parts of groups, whose
advantages do not sum to zero; and it pads all of them to the longest, which at long responses is
half of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import Trainer
from trl.trainer.utils import pad, split_tensor_dict

MISMATCH = ("rollout_logprob_gap", "rollout_kl", "rollout_capped_share")  # in the logs


class RolloutBatches(Trainer):
    """Mixin for TRL's GRPO and RLOO trainers.

    `level` and `cap` say what `rollout_capped_share` counts: ratios of "token" or "sequence"
    probabilities above the cap. Whoever builds the trainer sets them on the instance.
    """

    level: str = "token"
    cap: float = 3.0
    _logps: torch.Tensor | None = None  # of the last forward pass, [rows, tokens]
    _mismatch: torch.Tensor | None = None  # [5], what `mismatch` gives, since the last log

    if TYPE_CHECKING:  # TRL's
        args: Any
        use_vllm: bool
        vllm_generation: Any
        _metrics: Any
        _step: int
        _buffered_inputs: Any

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """The next micro-batch; at the first of a step all of its rollouts are made.

        They stay in the order of the prompts, group by group, so that the parts of a step are
        whole groups (`check` sees to it that the numbers divide).
        """
        steps = self.args.steps_per_generation
        if self._step % steps == 0 or self._buffered_inputs is None:
            made = self._generate_and_score_completions(inputs)
            self._buffered_inputs = split_tensor_dict(made, steps)
        inputs_of_pass: dict[str, Any] = self._buffered_inputs[self._step % steps]
        return inputs_of_pass

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """TRL's, with the engine's log-probs also where its trainer has no use for them (RLOO)."""
        upper: Any = super()
        made: dict[str, Any] = upper._generate_and_score_completions(inputs)
        if self.use_vllm and "sampling_per_token_logps" not in made:
            rows = [torch.tensor(row, dtype=torch.float32) for row in self.vllm_generation.drawn]
            drawn = pad(rows, padding_value=0, padding_side="right")
            made["sampling_per_token_logps"] = drawn.to(made["completion_ids"].device)
        return made

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **rest: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's, each micro-batch cut to its longest prompt and response: [rows, tokens].

        Past a row's end the log-probs and entropies are 0; no loss reads them.
        """
        upper: Any = super()
        size, prompt = batch_size or len(input_ids), input_ids.shape[1] - logits_to_keep
        parts = []
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            start, end = _extent(mask, prompt)
            logps, entropies, aux_loss = upper._get_per_token_logps_and_entropies(
                model, ids[:, start:end], mask[:, start:end], end - prompt, **rest
            )
            space = (0, input_ids.shape[1] - end)
            logps = functional.pad(logps, space)
            entropies = None if entropies is None else functional.pad(entropies, space)
            parts.append((logps, entropies, aux_loss))
        logps, entropies, aux_loss = zip(*parts, strict=True)
        self._logps = torch.cat(logps)
        return (
            self._logps,
            None if entropies[0] is None else torch.cat(entropies),
            None if aux_loss[0] is None else torch.stack(aux_loss).mean(),
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's, with note taken of how far engine and trainer are apart on these rollouts."""
        upper: Any = super()
        loss: torch.Tensor = upper._compute_loss(model, inputs)
        drawn = inputs.get("sampling_per_token_logps")
        if drawn is None:
            return loss
        old = inputs.get("old_per_token_logps")
        place = self._step % self.args.steps_per_generation
        if old is None and place < self.args.gradient_accumulation_steps:
            old = self._logps  # of the first update: the weights are still those that drew
        if old is not None:
            found = mismatch(old.detach(), drawn, inputs["completion_mask"], self.level, self.cap)
            self._mismatch = found if self._mismatch is None else self._mismatch + found
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, with the mismatch over all processes (a collective) since the last log."""
        if self._mismatch is not None:
            sums = self.accelerator.reduce(self._mismatch, reduction="sum").tolist()
            tokens, rows, gap, kl, capped = sums
            of = rows if self.level == "sequence" else tokens
            values = (gap / max(tokens, 1), kl / max(tokens, 1), capped / max(of, 1))
            for name, value in zip(MISMATCH, values, strict=True):
                self._metrics["train"][name].append(value)
            self._mismatch = None
        super().log(logs, start_time)


def mismatch(
    trained: torch.Tensor, drawn: torch.Tensor, mask: torch.Tensor, level: str, cap: float
) -> torch.Tensor:
    """Sums over rollouts of what sets the trainer's distribution p apart from the engine's q.

    Args:
        trained, drawn: log p and log q of the tokens that q drew, [rows, tokens]; NaN: not known.
        mask: [rows, tokens], which of them count.
        level, cap: ratios p / q of tokens or of sequences above `cap` are counted.

    Returns:
        fp64 [5]: tokens, rows, Σ |log p - log q|, Σ (r - 1 - log r) with r = p / q, whose mean is
        an estimate of KL(q ‖ p) that is never negative (Schulman, k3), and ratios above the cap.
    """
    known = mask.bool() & ~drawn.isnan()
    gap = (trained.double() - drawn.double()).masked_fill(~known, 0.0)
    ratios = gap.sum(dim=1) if level == "sequence" else gap[known]
    return torch.stack(
        [
            known.sum().double(),
            known.any(dim=1).sum().double(),
            gap.abs().sum(),
            (gap.exp() - 1 - gap).sum(),
            (ratios.exp() > cap).sum().double(),
        ]
    )


def _extent(mask: torch.Tensor, prompt: int) -> tuple[int, int]:
    """First column that a row's prompt needs and the one behind the last of a response.

    Args:
        mask: [rows, width] of 0 and 1; prompts, `prompt` columns of it, are padded on the left.
    """
    used = mask.any(dim=0).nonzero()[:, 0]
    if not len(used):
        return prompt - 1, prompt + 1
    return min(int(used[0]), prompt - 1), max(int(used[-1]) + 1, prompt + 1)
