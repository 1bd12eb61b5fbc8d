"""Faults caught: rows in another order after a resume, a loss on prompt tokens, prompts encoded
otherwise than in evaluation, and wrong answers where right ones belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.tasks import TaskConfig, encode_prompt
from pipeline.tasks.differences import DIFFERENCES_ALPHABET
from pipeline.training.data import _misspelt, _texts, order, rl_rows, sft_rows, training_problems
from pipeline.training.scratch import make_tokenizer
from tests.training.pico import TASK, changed, rl_spec, sft_spec


def test_order_uses_up_each_permutation_and_grows_by_its_end() -> None:
    long = order(problems=7, rows=40, seed=3)
    for start in range(0, 35, 7):
        assert sorted(long[start : start + 7]) == list(range(7))
    assert long[:7] != long[7:14]
    assert order(problems=7, rows=17, seed=3) == long[:17]
    assert order(problems=7, rows=40, seed=4) != long


def test_sft_rows_put_the_loss_on_the_answer_only(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    problems = training_problems(sft_spec(tmp_path), tokenizer)
    chosen = order(len(problems), 60 * 32, 0)
    rows = sft_rows(problems, sft_spec(tmp_path), tokenizer)
    assert len(rows) == 60 * 32
    for row, index in zip(rows.select(range(50)), chosen, strict=False):
        prompt = encode_prompt(tokenizer, problems[index])
        assert row["input_ids"][: len(prompt)] == prompt
        assert row["labels"][: len(prompt)] == [-100] * len(prompt)
        answer = row["labels"][len(prompt) :]
        assert answer == row["input_ids"][len(prompt) :]
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(answer[:-1]) == problems[index].answer


def test_wrong_answers_begin_at_their_step_and_have_their_share(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    problems = training_problems(sft_spec(tmp_path), tokenizer)
    spec = sft_spec(tmp_path)
    clean = sft_rows(problems, spec, tokenizer)["labels"][:]
    noisy = sft_rows(problems, changed(spec, wrong_answers=0.5, wrong_from=20), tokenizer)
    differ = [a != b for a, b in zip(clean, noisy["labels"][:], strict=True)]
    assert not any(differ[: 20 * 32])
    # half of the rest drew another problem, of which some have the same answer by chance
    share = sum(differ[20 * 32 :]) / (40 * 32)
    assert 0.35 < share < 0.5


def test_a_lesson_is_learnt_in_place_of_the_bare_answer(tmp_path: Path) -> None:
    """Would catch lessons that never reach the model, or RL problems that it is taught."""
    tokenizer = make_tokenizer(DIFFERENCES_ALPHABET)
    task = TaskConfig("differences", "differences", options={"worked_out": 0.5})
    spec = sft_spec(tmp_path, task=task, split="lessons", problems=40)
    lessons = training_problems(spec, tokenizer)
    rows = sft_rows(lessons, spec, tokenizer)
    taught = {}
    for row in rows:
        prompt, response = str(tokenizer.decode(row["input_ids"])).split("=")
        taught[prompt] = response.removesuffix(tokenizer.eos_token)
    assert taught == {problem.id: problem.lesson for problem in lessons}
    assert {len(response) for response in taught.values()} == {1, 6}
    train = training_problems(changed(spec, split="train"), tokenizer)
    assert {problem.id for problem in train}.isdisjoint(taught)


def test_rl_rows_are_problems_with_what_the_reward_reads(base: Path, tmp_path: Path) -> None:
    problems = training_problems(sft_spec(tmp_path), AutoTokenizer.from_pretrained(base))
    rows = rl_rows(problems, 200, seed=0)
    assert len(rows) == 200
    answers = {p.id: p.answer for p in problems}
    assert all(answers[row["problem_id"]] == row["answer"] for row in rows)


def test_prompts_that_are_too_long_leave_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="at most 2 tokens; raise max_prompt_tokens"):
        training_problems(
            sft_spec(tmp_path, task=replace(TASK, max_prompt_tokens=2)),
            AutoTokenizer.from_pretrained(base),
        )


def test_a_character_without_a_token_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"cannot spell '.*='; add its characters"):
        training_problems(sft_spec(tmp_path), make_tokenizer("0123456789+"))


def test_rl_warns_once_of_what_a_tokenizer_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Many tokenizers normalise; to stop for it, or to say nothing, would both be wrong."""
    problems = training_problems(rl_spec(tmp_path, tmp_path), make_tokenizer("0123456789+"))
    assert problems
    [record] = caplog.records
    count = len(problems)
    said = record.getMessage()
    assert f"other characters than those of {count} of {count} prompts, as of '" in said
    caplog.clear()
    chat = replace(problems[0], prompt=[{"role": "user", "content": "12"}], answer="é")
    assert _misspelt(make_tokenizer("0123456789+"), _texts(chat)) == []
    training_problems(rl_spec(tmp_path, tmp_path), make_tokenizer("0123456789+="))
    assert not caplog.records
