r"""Extraction of the last \boxed{}: nesting, truncation, escapes, hostile lengths."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.tasks.boxed import last_boxed

CASES = [
    (r"first \boxed{1}, no: \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{a \boxed{b} c}", r"a \boxed{b} c"),
    (r"\boxed{7} and then \boxed{8", "7"),
    (r"\boxed{7 and then \boxed{8}", "8"),
    (r"\boxed {3}", "3"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
    (r"\boxed{}", ""),
    (r"\boxed 5", "5"),
    (r"\boxed 1,234.", "1,234"),
    (r"\boxed\frac{1}{2}, so", r"\frac{1}{2}"),
    (r"\boxed\text{(B)}", r"\text{(B)}"),
    (r"use \boxed to show it", None),
    (r"\boxed{1}, no: \fbox{2}", "2"),
    (r"\fboxsep", None),
    (r"\boxedtext{5}", None),
    ("x = 5 \\\\\\boxed{5}", "5"),  # a line break, then the command
    ("}}} \\boxed{4} {{{", "4"),
    ("{ \\boxed{4}", "4"),
    ("no box", None),
    ("", None),
    ("\\", None),
    ("\\boxed", None),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_known_cases(text: str, expected: str | None) -> None:
    """Catches taking the first box, stopping at an inner brace, or a truncated box."""
    assert last_boxed(text) == expected


plain = st.text(st.characters(exclude_characters="\\{}"), max_size=20)
content = st.recursive(
    plain, lambda inner: st.lists(st.one_of(inner, inner.map(lambda s: "{" + s + "}"))).map("".join)
)


# generating is slow on a busy machine, which says nothing about the code
unhurried = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@unhurried
@given(before=plain, inside=content, after=plain)
def test_any_balanced_content_comes_back_whole(before: str, inside: str, after: str) -> None:
    """Catches any loss at nested braces, whatever stands around the box."""
    assert last_boxed(f"{before}\\boxed{{{inside}}}{after}") == inside


@unhurried
@given(first=content, last=content, between=plain)
def test_the_last_of_two_boxes_wins(first: str, last: str, between: str) -> None:
    """Catches grading an earlier box."""
    assert last_boxed(f"\\boxed{{{first}}}{between}\\boxed{{{last}}}") == last


@unhurried
@given(text=st.text(alphabet="\\{}boxed 1", max_size=60))
def test_any_text_gives_a_balanced_substring_or_none(text: str) -> None:
    """Catches crashes and unbalanced results on arbitrary input."""
    found = last_boxed(text)
    if found is not None:
        assert found in text
        unescaped = found.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert unescaped.count("{") == unescaped.count("}")


def test_a_hundred_thousand_open_boxes_take_one_pass() -> None:
    """Catches quadratic scanning, which would hang here (10^5 openings, 7*10^5 characters)."""
    assert last_boxed("\\boxed{" * 100_000) is None
    assert last_boxed("\\boxed{" * 100_000 + "7}") == "7"
