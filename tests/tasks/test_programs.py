"""Which part of a response is the program."""

import pytest

from pipeline.tasks.programs import complete_prompt, continue_prompt, find_program

ONE, TWO = "def f():\n    return 1\n", "def f():\n    return 2\n"
USE = "print(f())\n"


def fenced(code: str, tag: str = "python", mark: str = "```", indent: str = "") -> str:
    lines = [f"{mark}{tag}", *code.rstrip("\n").split("\n"), mark]
    return "".join(f"{indent}{line}\n" for line in lines)


TAGS = ["python", "py", "Python3", " python", 'python title="a.py"', "{.python .numberLines}"]


@pytest.mark.parametrize("tag", [*TAGS, "python:main.py", "PYTHON", "{python}", "ipython", ""])
@pytest.mark.parametrize("mark", ["```", "````", "~~~", "~~~~~"])
def test_every_spelling_of_a_block_is_read(tag: str, mark: str) -> None:
    """Catches a program lost because of its fence or its tag."""
    assert find_program(f"Sure:\n\n{fenced(ONE, tag, mark)}\nDone.", {"f"}) == ONE


@pytest.mark.parametrize("indent", ["  ", "   ", "\t", "      "])
def test_an_indented_block_loses_its_indentation(indent: str) -> None:
    """Catches a block in a list, whose code is no Python as it stands."""
    assert find_program(f"1. So:\n\n{fenced(ONE, indent=indent)}\n2. Done", {"f"}) == ONE
    assert find_program(f"- {fenced(ONE, indent='  ').lstrip()}", {"f"}) == ONE


def test_lines_may_end_as_on_windows() -> None:
    """Catches a carriage return in the tag, the code or the last fence."""
    assert find_program(fenced(ONE).replace("\n", "\r\n"), {"f"}) == ONE


CHOICES = {
    "the last of several": (fenced(ONE) + "Better:\n" + fenced(TWO), TWO),
    "tagged before untagged": (fenced(ONE) + "Or:\n" + fenced(TWO, ""), ONE),
    "tagged before other languages": (fenced(ONE) + fenced("python a.py", "bash"), ONE),
    "untagged before other languages": (fenced(ONE, "") + fenced("1", "text"), ONE),
    "untagged output": (fenced(ONE, "") + "prints\n" + fenced("1\n2", ""), ONE),
    "an example of its use": (fenced(ONE) + "Use it so:\n" + fenced(USE), ONE),
    "a body and its use": (fenced("    return 1") + fenced(USE), "return 1\n"),
    "a body at the margin and its use": (
        fenced("x = 1\nreturn x") + fenced(USE),
        "x = 1\nreturn x\n",
    ),
    "a body without its first indentation": (
        fenced("x = 1\n    return x") + fenced(USE),
        "x = 1\n    return x\n",
    ),
    "a withdrawn draft": (fenced(ONE) + "No:\n" + fenced("def f(: 3"), "def f(: 3\n"),
    "no closing fence": ("```python\n" + ONE, ONE),
    "the second without closing fence": (fenced(ONE) + "Better:\n```python\n" + TWO, TWO),
    "half a second block": (fenced(ONE) + "Better:\n```python\ndef f(x, y", ONE),
    "a first block never closed": ("```python\n" + ONE + "\n```python\n" + TWO + "```", TWO),
    "a fence in a docstring": (fenced('def f():\n    """\n    ```\n    x\n    ```\n    """'), None),
    "a document in a block": ("````markdown\nSo:\n" + fenced(ONE) + "````\n", ONE),
    "a tag after words": ("Here: " + fenced(ONE), ONE),
    "in a tag of another kind": (f"<answer>{fenced(ONE).rstrip()}</answer>\nDone", ONE),
    "code in a line of text": ("```python``` is not it.\n" + fenced(ONE), ONE),
    "an unknown tag": (fenced(ONE, "code"), ONE),
    "a session": (fenced(">>> f()\n1", "pycon") + fenced(ONE, ""), ONE),
    "an empty block": (fenced(ONE) + "```python\n```\n", ONE),
    "drafts in a thought": (f"<think>{fenced(TWO)}</think>\n{fenced(ONE, '')}", ONE),
    "no block": (ONE, ONE),
}


@pytest.mark.parametrize(("text", "program"), CHOICES.values(), ids=CHOICES)
def test_of_several_blocks_the_answer_is_chosen(text: str, program: str | None) -> None:
    """Catches a draft, an example or an output taken for the answer."""
    found = find_program(text, {"f"})
    if program is None:
        assert found is not None
        assert found.count("```") == 2
    else:
        assert found == program


NONE = ["", "I cannot.", "No", "42", "yes, it is", fenced("4", "text"), fenced("{}", "json")]


@pytest.mark.parametrize("text", [*NONE, fenced("int f() {}", "cpp"), f"<think>{ONE}</think>No."])
def test_what_is_no_program_is_none(text: str) -> None:
    """Catches prose, data and other languages counted as wrong programs."""
    assert find_program(text, {"f"}) is None


PROMPT = 'import math\n\ndef helper(x):\n    return 2\n\ndef twice(x):\n    """Twice x."""\n'
COMPLETIONS = [
    "    return 2 * x\n",
    "\n    # doubled\n    return 2 * x",
    "return 2 * x",
    "y = 2 * x\nif y:\n    return y\nreturn 0",
    "y = 2 * x\n    return y\n",
    "\treturn helper(x) * x\n",
    "def twice(x):\n    return helper(0) * x",
    "    def twice(x):\n        return 2 * x",
    "twice = lambda x: 2 * x",
    "from __future__ import annotations\n\ndef twice(x: Nothing):\n    return 2 * x",
    '"""Doc."""\nfrom __future__ import (\n    annotations,\n)\ndef twice(x: No): return 2 * x',
    "def other(x):\n    return math.floor(2 * x)\n\ndef twice(x):\n    return other(x)",
    PROMPT + "    return 2 * x",
]


@pytest.mark.parametrize("code", COMPLETIONS)
def test_a_prompt_that_is_code_is_completed(code: str) -> None:
    """Catches a body whose indentation is lost, the prompt's imports, and future imports."""
    names: dict[str, object] = {}
    whole = complete_prompt(PROMPT, "twice", code)
    exec(compile(whole, "program", "exec", dont_inherit=True), names)
    assert names["twice"](21) == 42  # type: ignore[operator]


def test_a_continuation_ends_where_it_leaves_the_function() -> None:
    """Catches text after the function (further functions, prints) that would break the program."""
    body = "    return 2 * x\n"
    assert continue_prompt(PROMPT, body + "\n\ndef other():\n    pass") == PROMPT + body + "\n\n"
    assert (
        continue_prompt(PROMPT, (body + "\nprint(").replace("\n", "\r\n")) == PROMPT + body + "\n"
    )
