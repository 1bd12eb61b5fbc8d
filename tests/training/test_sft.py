"""Faults caught: training that does not learn, loses the tokenizer, or counts steps wrongly."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.artifacts import read_jsonl
from pipeline.tasks import encode_prompt, load_problems
from tests.tasks.make import task


def test_sft_learns_to_answer(sft_output: Path) -> None:
    rows = read_jsonl(sft_output / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["loss"] < 0.4 * rows[0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(sft_output / "model")
    tokenizer = AutoTokenizer.from_pretrained(sft_output / "model")
    assert model.dtype == torch.float32
    right = 0.0
    problems = load_problems(task("addition", digits=1), "train", 40, 0)
    for problem in problems:
        prompt = encode_prompt(tokenizer, problem)
        answer = [*tokenizer(problem.answer)["input_ids"], tokenizer.eos_token_id]
        logits = model(torch.tensor([prompt + answer])).logits.detach()[0, len(prompt) - 1 : -1]
        right += float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().exp())
    assert right / len(problems) > 0.15  # a blind guess among 19 sums would get 5 %
