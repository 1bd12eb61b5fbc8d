"""Advantages that TRL does not compute: those of REINFORCE++ (arXiv 2501.03262).

Both are scaled by the whole batch, every response weighing as much as it has tokens, since they
are advantages of tokens, all tokens of a response having the same. The plain one compares with the
mean of the batch; with a baseline, the mean reward of a response's group is taken off before.
A KL penalty is TRL's, in the loss.
"""

from __future__ import annotations

import torch

OWN = ("reinforce_pp", "reinforce_pp_baseline")  # values of algorithm.advantage; "trl": TRL's
_LEAST_VARIANCE = 1e-8


def own_advantages(
    kind: str, rewards: torch.Tensor, tokens: torch.Tensor, group: int
) -> torch.Tensor:
    """Advantages [N] fp32 of the responses of a step, over all ranks.

    Args:
        kind: one of OWN.
        rewards: [N] fp32, the responses to one prompt side by side.
        tokens: [N], how many tokens of each response count.
        group: responses to a prompt.
    """
    values, weights = rewards.double(), tokens.double()
    if kind == "reinforce_pp_baseline":
        grouped = values.view(-1, group)
        values = (grouped - grouped.mean(1, keepdim=True)).view(-1)
    weights = weights / weights.sum().clamp(min=1.0)
    centred = values - (weights * values).sum()
    variance = (weights * centred.square()).sum()
    return (centred * variance.clamp(min=_LEAST_VARIANCE).rsqrt()).float()
