"""What is done to a step's rollouts between TRL's scoring and its loss: dynamic sampling,
advantages that TRL lacks, and a record of them on disk.

Dynamic sampling (DAPO, arXiv 2503.14476): a group of equal rewards has no gradient. Its place is
given to a group of another prompt whose rewards differ, in up to `dynamic_sampling` rounds, each of
as many prompts as are still needed. What is left then is left out of the loss. The other prompts
are drawn by step and round, so a run that resumes draws the same. A rank replaces its own groups
only: nothing but rewards travels, and every rank generates equally often.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from pipeline.artifacts import append_jsonl
from pipeline.tasks.rewards import completion_text
from pipeline.training.advantages import own_advantages
from pipeline.training.callbacks import WholeCheckpoints

ROWS = "rollouts.jsonl"
Batch = dict[str, torch.Tensor]  # of one rank, a row a response
Groups = list[list[int]]  # [ranks][groups], by their places on the rank


@dataclass(frozen=True)
class Plan:
    """What a run does with its rollouts.

    pool: rows of all problems, for other prompts; kept: the share of groups that is written to
    `folder`/rollouts.jsonl; group: responses to a prompt.
    """

    folder: Path
    pool: Sequence[dict[str, Any]]
    advantage: str
    rounds: int
    kept: float
    group: int
    seed: int


@dataclass
class Scored:
    """The responses of all ranks, in the order of ranks: [N] each."""

    rewards: torch.Tensor
    prompts: list[Any]
    texts: list[str]
    truncated: list[bool]
    advantages: torch.Tensor

    def replace(self, place: int, other: Scored, source: int, count: int) -> None:
        """Put `count` responses of `other`, from `source` on, at `place`."""
        here, there = slice(place, place + count), slice(source, source + count)
        self.rewards[here] = other.rewards[there]
        self.advantages[here] = other.advantages[there]
        self.prompts[here] = other.prompts[there]
        self.texts[here] = other.texts[there]
        self.truncated[here] = other.truncated[there]


class RolloutGroups(WholeCheckpoints):
    """Mixin for TRL's RL trainers; `plan` is set by whoever builds the trainer."""

    plan: Plan

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        parent: Any = super()
        found: torch.Tensor = parent._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        trainer: Any = self
        ends = {*trainer.eos_token_ids, trainer._tokenizer.pad_token_id}
        cut = [not ids or ids[-1] not in ends for ids in completion_ids_list]
        self._rewards = found.nansum(1).float().cpu()
        self._truncated: list[bool] = gather_object(cut)
        return found

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        batch, scored = self._score(inputs)
        if self.plan.rounds:
            batch = self._with_signal(inputs, batch, scored)
        if self.plan.advantage != "trl":
            tokens = self.accelerator.gather(batch["completion_mask"].sum(1)).cpu()
            scored.advantages = own_advantages(
                self.plan.advantage, scored.rewards, tokens, self.plan.group
            )
            first = self.accelerator.process_index * len(inputs)
            mine = scored.advantages[first : first + len(inputs)]
            batch["advantages"] = mine.to(batch["advantages"])
        if self.is_world_process_zero():
            self._keep(scored)
        return batch

    def _score(self, inputs: list[dict[str, Any]]) -> tuple[Batch, Scored]:
        trainer: Any = super()
        batch: Batch = trainer._generate_and_score_completions(inputs)
        logs: Any = getattr(self, "_logs")  # noqa: B009
        count = len(self._rewards)

        def last(name: str) -> list[Any]:
            return list(logs[name])[-count:]

        texts = [completion_text(completion) for completion in last("completion")]
        advantages = torch.tensor(last("advantages"))
        return batch, Scored(
            self._rewards.clone(), last("prompt"), texts, self._truncated, advantages
        )

    def _with_signal(self, inputs: list[dict[str, Any]], batch: Batch, scored: Scored) -> Batch:
        """Dynamic sampling of one step; `scored` changes with the batch."""
        trainer: Any = self
        metrics = trainer._metrics["train"]
        first = {name: list(values) for name, values in metrics.items()}  # of what was asked for
        share, rounds = len(inputs) // self.plan.group, 0
        dead = flat(scored.rewards, share, self.plan.group)
        while rounds < self.plan.rounds and any(dead):
            rounds += 1
            batch = self._replace(dead, share, batch, scored, rounds)
            dead = flat(scored.rewards, share, self.plan.group)
        mask = batch["completion_mask"].clone()
        for place in dead[self.accelerator.process_index]:
            mask[place * self.plan.group : (place + 1) * self.plan.group] = 0
        batch["completion_mask"] = mask
        if "num_items_in_batch" in batch:
            batch["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        metrics.clear()
        metrics.update(first)
        metrics["dynamic/rounds"].append(float(rounds))
        metrics["dynamic/left_out"].append(sum(map(len, dead)) / (share * len(dead)))
        return batch

    def _replace(
        self, dead: Groups, share: int, batch: Batch, scored: Scored, number: int
    ) -> Batch:
        """One round: other prompts, and their groups with signal in the places of `dead` ones."""
        trainer: Any = self
        group, mine = self.plan.group, self.accelerator.process_index
        count = max(map(len, dead))
        others, found = self._score(self._others(count, number))
        useless = flat(found.rewards, count, group)
        for rank, places in enumerate(dead):
            alive = [source for source in range(count) if source not in useless[rank]]
            for place, source in zip(places, alive, strict=False):
                ours, theirs = (rank * share + place) * group, (rank * count + source) * group
                scored.replace(ours, found, theirs, group)
                if rank == mine:
                    pad = trainer._tokenizer.pad_token_id
                    batch = replaced(batch, others, place * group, source * group, group, pad)
        return batch

    def _others(self, count: int, number: int) -> list[dict[str, Any]]:
        """This rank's rows of `count` other prompts, each as often as a group has responses."""
        world, pool = self.accelerator.num_processes, self.plan.pool
        rng = random.Random(f"dynamic/{self.plan.seed}/{self.state.global_step}/{number}")
        wanted = count * world
        drawn: list[int] = []
        while len(drawn) < wanted:
            drawn.extend(rng.sample(range(len(pool)), min(len(pool), wanted - len(drawn))))
        mine = drawn[self.accelerator.process_index * count :][:count]
        return [dict(pool[index]) for index in mine for _ in range(self.plan.group)]

    def _keep(self, scored: Scored) -> None:
        """Append the chosen groups of a step; which ones depends on seed and step alone."""
        step, group = self.state.global_step // self.updates + 1, self.plan.group
        rows: list[dict[str, Any]] = []
        for first in range(0, len(scored.texts), group):
            draw = random.Random(f"rollouts/{self.plan.seed}/{step}/{first // group}").random()
            if draw >= self.plan.kept:
                continue
            rows += [
                {
                    "step": step,
                    "group": first // group,
                    "prompt": scored.prompts[at],
                    "text": scored.texts[at],
                    "reward": float(scored.rewards[at]),
                    "advantage": float(scored.advantages[at]),
                    "truncated": scored.truncated[at],
                }
                for at in range(first, first + group)
            ]
        if rows:
            append_jsonl(self.plan.folder / ROWS, rows)


def flat(rewards: torch.Tensor, share: int, group: int) -> Groups:
    """On each rank, the groups whose rewards are all equal.

    Args:
        rewards: [ranks * share * group].
        share: groups on a rank.
    """
    grouped = rewards.view(-1, share, group)
    same = (grouped == grouped[..., :1]).all(-1)
    return [row.nonzero().flatten().tolist() for row in same]


def replaced(batch: Batch, other: Batch, place: int, source: int, count: int, pad: int) -> Batch:
    """`batch` with `count` rows of `other`, from `source` on, at `place`.

    Tensors [rows, tokens] are brought to one width: prompts are padded on the left, the rest on
    the right; ids by `pad`, all else by 0.
    """
    merged = dict(batch)
    for name, value in batch.items():
        if value.dim() == 0:
            continue  # a count over all ranks
        one, two = value, other[name]
        if value.dim() == 2:
            width = max(value.shape[1], two.shape[1])
            filler, left = pad if name.endswith("_ids") else 0, name.startswith("prompt_")
            one, two = (_widened(tensor, width, filler, left) for tensor in (value, two))
        one = one.clone()
        one[place : place + count] = two[source : source + count]
        merged[name] = one
    return merged


def _widened(tensor: torch.Tensor, width: int, filler: int, left: bool) -> torch.Tensor:
    more = width - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (more, 0) if left else (0, more), value=filler)
