"""IFEval: rows are read as the hub and files have them, the published checkers decide, and what
they would fill in by chance is refused.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tasks import Problem, TaskConfig, check_task, grade_many, load_problems
from pipeline.tasks.ifeval import ARGUMENTS, PACKAGES
from tests.tasks.make import needs_ifeval, task
from tests.tasks.shared import content

ROWS: list[dict[str, Any]] = [
    {
        "key": 1,
        "prompt": "Write about rivers with at least 5 words and no commas.",
        "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
        "kwargs": [{"num_words": 5, "relation": "at least", "keywords": None}, {"num_words": None}],
    },
    {
        "key": 2,
        "prompt": "Answer with two sentences at most, in a JSON object.",
        "instruction_id_list": ["detectable_format:json_format"],
        "kwargs": [{}],
    },
    {
        "key": 3,
        "prompt": "Use the word river once at most. Highlight a section.",
        "instruction_id_list": [
            "keywords:frequency",
            "detectable_format:number_highlighted_sections",
        ],
        "kwargs": [
            {"keyword": "river", "frequency": 2, "relation": "less than"},
            {"num_highlights": 1},
        ],
    },
]


def asked(folder: Path, rows: list[dict[str, Any]], **options: Any) -> TaskConfig:
    file = folder / "ifeval.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task("ifeval", dataset={"path": str(file)}, **options)


def test_prompts_are_posed_to_the_letter(tmp_path: Path) -> None:
    """Catches a prompt that is trimmed or wrapped: instructions may be about its text; and columns
    of other rows (None) taken for arguments."""
    problems = load_problems(asked(tmp_path, ROWS), "test", None, 0)
    assert [content(p) for p in problems] == [row["prompt"] for row in ROWS]
    assert problems[0].meta["instructions"] == [
        {
            "name": "length_constraints:number_words",
            "arguments": {"num_words": 5, "relation": "at least"},
        },
        {"name": "punctuation:no_comma", "arguments": {}},
    ]
    twice = load_problems(asked(tmp_path, [*ROWS, ROWS[0]]), "test", None, 0)
    assert [p.id for p in twice] == [p.id for p in problems]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            {"instruction_id_list": ["length_constraints:number_letters"] * 2},
            "row 1: unknown instr",
        ),
        (
            {"kwargs": [{"num_words": 5}, {}]},
            "row 1: length_constraints:number_words lacks relation",
        ),
        ({"kwargs": [{"num_words": 5, "relation": "at least", "n": 1}, {}]}, "has no argument n"),
        ({"kwargs": [{}]}, "lists of one length"),
        ({"kwargs": None}, "lists of one length"),
        ({"instruction_id_list": [], "kwargs": []}, "no instruction to check"),
        ({"prompt": 3}, "row 1: prompt is no text"),
    ],
)
def test_rows_that_cannot_be_checked_are_refused(
    change: dict[str, Any], part: str, tmp_path: Path
) -> None:
    """Catches an instruction that is passed over, and one whose threshold is drawn by chance."""
    with pytest.raises(PipelineError, match=part):
        load_problems(asked(tmp_path, [ROWS[0] | change]), "test", None, 0)


@pytest.mark.skipif(
    all(find_spec(package) for package in PACKAGES), reason="the checkers are installed"
)
def test_without_the_package_it_is_named(tmp_path: Path) -> None:
    """Catches a run that finds it out when its responses are there."""
    with pytest.raises(PipelineError, match=r'pip install "lm-eval\[ifeval\]"'):
        check_task(asked(tmp_path, ROWS))


def grades(problems: list[Problem], texts: list[str], of: TaskConfig) -> list[tuple[bool, str]]:
    found = grade_many(of, list(zip(problems, texts, strict=True)))
    return [(grade.correct, grade.status) for grade in found]


def test_the_published_checkers_decide(tmp_path: Path) -> None:
    """Catches verdicts in another order than the responses, one instruction that is enough, and
    loose and strict mixed up."""
    needs_ifeval()
    strict = asked(tmp_path, ROWS)
    one, json_one, frequency = load_problems(strict, "test", None, 0)
    cases = [
        (one, "Rivers carry water down to the sea.", True),
        (one, "Rivers carry water, and mud, to the sea.", False),
        (one, "Rivers flow.", False),
        (json_one, '```json\n{"river": "Nile"}\n```', True),
        (json_one, "the Nile", False),
        (frequency, "A river is *long*.", True),
        (frequency, "A river meets a river in *Koblenz*.", False),
        (frequency, "A river is long.", False),
    ]
    problems, texts, right = (list(column) for column in zip(*cases, strict=True))
    assert grades(problems, texts, strict) == [(each, "ok") for each in right]
    assert grades([one], ["  \n"], strict) == [(False, "no_answer")]
    opened = "Sure, here it is:\nRivers carry water down to the sea."
    assert grades([one], [opened], strict) == [(False, "ok")]
    loose = asked(tmp_path, ROWS, loose=True)
    assert grades([one], [opened], loose) == [(True, "ok")]


def test_arguments_are_those_of_the_package() -> None:
    """Catches a list of ours that an update of the package has left behind."""
    needs_ifeval()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    theirs = {name: set(kind(name).get_instruction_args_keys()) for name, kind in
              INSTRUCTION_DICT.items()}  # fmt: skip
    assert {name: set(keys) for name, keys in ARGUMENTS.items()} == theirs


def test_a_language_is_told_the_same_each_time(tmp_path: Path) -> None:
    """Catches a detector that draws: the grade of a short text must not change."""
    needs_ifeval()
    row = {
        "prompt": "Antworte auf Deutsch.",
        "instruction_id_list": ["language:response_language"],
        "kwargs": [{"language": "de"}],
    }
    of = asked(tmp_path, [row])
    [problem] = load_problems(of, "test", None, 0)
    found = grades([problem] * 12, ["Das ist gut so."] * 12, of)
    assert len(set(found)) == 1
    assert grades([problem], ["Der Fluss fließt durch das Tal zum Meer."], of) == [(True, "ok")]
