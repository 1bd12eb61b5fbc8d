"""The front door: prompts as TRL encodes them, rewards as TRL calls them, grading of files."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.tasks import (
    Problem,
    check_task,
    encode_prompt,
    grade_rows,
    keep_short,
    load_problems,
    reward_function,
    training_rows,
)
from tests.tasks.make import task
from tests.tasks.shared import content


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, with a chat template that shows its turns."""
    characters = sorted(
        set("0123456789+=<>:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ?")
    )
    vocabulary = {c: i for i, c in enumerate(["<pad>", "<unk>", *characters])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = Split("", "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>")
    made.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return made


def spell(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_prompts_are_what_the_model_should_read(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches a chat template on a plain prompt, and a missing opening of the assistant's turn."""
    plain = Problem("p", "12+34=", "46", "test")
    chat = Problem("p", [{"role": "user", "content": "Hi"}], "46", "test")
    assert spell(tokenizer, encode_prompt(tokenizer, plain)) == "12+34="
    assert spell(tokenizer, encode_prompt(tokenizer, chat)) == "<user>Hi<assistant>"


def test_messages_without_a_template_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches a base model that silently gets a prompt of some other form."""
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(PipelineError, match="no chat template"):
        encode_prompt(bare, Problem("p", [{"role": "user", "content": "Hi"}], "1", "test"))


def test_long_prompts_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches an off-by-one at the limit and dropping without saying so."""
    problems = [Problem(str(n), "1" * n, "1", "train") for n in (3, 4, 5)]
    kept, dropped = keep_short(tokenizer, problems, 4)
    assert [p.id for p in kept] == ["3", "4"]
    assert dropped == 1


def call(reward: Any, problems: list[Problem], completions: list[Any], **more: Any) -> list[float]:
    """As TRL 1.16 calls it: every column repeated for each completion, and its own extras."""
    rows = training_rows(problems)
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    return reward(
        prompts=[p.prompt for p in problems],
        completions=completions,
        completion_ids=[[1]] * len(problems),
        trainer_state=None,
        log_extra=lambda *_: None,
        **columns,
        **more,
    )


def test_reward_is_one_for_right_and_zero_else_in_order() -> None:
    """Catches rewards shifted against completions, and statuses not reported to the trainer."""
    problems = load_problems(task("addition"), "train", 4, 0)
    completions = [problems[0].answer, "no", problems[2].answer, "1000"]
    logged: dict[str, float] = {}
    reward = reward_function(task("addition"))
    rewards = call(reward, problems, completions, log_metric=logged.__setitem__)
    assert rewards == [1.0, 0.0, 1.0, 0.0]
    assert logged == {"no_answer": 0.25, "timeout": 0.0}
    assert reward.__name__ == "addition_reward"


def test_reward_reads_conversations_and_keeps_extraction_options() -> None:
    """Catches meta data that does not reach the grader: first or last number."""
    problems = load_problems(task("sum", kind="arithmetic", extract="first"), "train", 2, 0)
    said = [[{"role": "assistant", "content": f"{p.answer}, not 77"}] for p in problems]
    assert call(reward_function(task("sum", kind="arithmetic")), problems, said) == [1.0, 1.0]


def test_reward_of_maths_uses_the_last_box() -> None:
    """Catches a reward that differs from the evaluation's grader."""
    problems = [Problem("p", [], "\\frac{1}{2}", "train")] * 2
    said = ["\\boxed{1} so \\boxed{0.5}", "\\boxed{0.5} so \\boxed{1}"]
    assert call(reward_function(task("m", kind="math")), problems, said) == [1.0, 0.0]


def test_reward_without_answers_is_an_error() -> None:
    """Catches training on zero rewards because a column was lost."""
    with pytest.raises(PipelineError, match="no column 'answer'"):
        reward_function(task("addition"))(["1+1="], ["2"])


def test_unknown_kind_is_named() -> None:
    """Catches a misspelt kind."""
    with pytest.raises(PipelineError, match="unknown kind 'maths'"):
        load_problems(task("m", kind="maths"), "test", None, 0)


def generation(problem: Problem, text: str, sample: int = 0) -> dict[str, Any]:
    return {
        "model": "base",
        "task": problem.task,
        "split": problem.split,
        "problem_id": problem.id,
        "sample": sample,
        "text": text,
    }


def test_grading_rows_follows_their_order_and_can_be_repeated() -> None:
    """Catches grades out of step when tasks are mixed, and a pass that changes on repetition."""
    tasks = {"addition": task("addition"), "sum": task("sum", kind="arithmetic")}
    sums = load_problems(tasks["addition"], "test", 3, 0)
    words = load_problems(tasks["sum"], "test", 2, 0)
    rows = [
        generation(sums[0], sums[0].answer),
        generation(words[0], f"It is {words[0].answer}."),
        generation(sums[1], "1000"),
        generation(words[1], "Who knows?", 3),
        generation(sums[2], sums[2].answer),
    ]
    grades = grade_rows(rows, [*words, *sums], tasks)
    assert [g["correct"] for g in grades] == [True, True, False, False, True]
    assert [g["status"] for g in grades] == ["ok", "ok", "ok", "no_answer", "ok"]
    assert [(g["problem_id"], g["sample"]) for g in grades] == [
        (r["problem_id"], r["sample"]) for r in rows
    ]
    assert grade_rows(rows, [*words, *sums], tasks) == grades
    assert grades[3]["prediction"] is None


def test_a_generation_of_an_unknown_problem_is_an_error() -> None:
    """Catches grading against the problems of another seed or split."""
    row = generation(Problem("99+99", "", "", "test", task="addition"), "198")
    with pytest.raises(PipelineError, match=r"generation 1: no problem '99\+99' in addition/test"):
        grade_rows([row], [], {})


def test_prompts_are_posed_as_asked(tmp_path: Path) -> None:
    """Would catch a template whose LaTeX is taken for fields, a system prompt that is left out or
    comes last, and a problem that contains the mark."""
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"problem": "is {problem} \\frac{1}{2}?", "answer": "1"}) + "\n")
    call: dict[str, Any] = {"kind": "math", "dataset": {"path": str(file)}}
    call |= {"prompt_template": "Q: {problem}\nA \\boxed{}:", "system_prompt": "Be {brief}."}
    posed = "Q: is {problem} \\frac{1}{2}?\nA \\boxed{}:"
    (chat,) = load_problems(task("d", **call), "test", None, 0)
    assert chat.prompt == [
        {"role": "system", "content": "Be {brief}."},
        {"role": "user", "content": posed},
    ]
    (plain,) = load_problems(task("d", **call, chat=False), "test", None, 0)
    assert plain.prompt == f"Be {{brief}}.\n{posed}"
    for kind in ("addition", "arithmetic"):
        (problem,) = load_problems(task(kind, prompt_template="<{problem}>"), "test", 1, 0)
        text = problem.prompt if isinstance(problem.prompt, str) else content(problem)
        assert (text[0], text[-1]) == ("<", ">")


def test_a_template_without_a_problem_is_refused() -> None:
    """Would catch a run in which every prompt is the same."""
    with pytest.raises(PipelineError, match=r"no \{problem\}; put it where"):
        check_task(task("addition", prompt_template="What is it?"))
    with pytest.raises(PipelineError, match=r"no \{problem\}; put it where"):
        load_problems(task("addition", prompt_template="What is it?"), "test", 1, 0)
