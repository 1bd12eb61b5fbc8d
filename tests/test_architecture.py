"""The picture in docs/architecture.md against the imports of the code, and what is in a room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pipeline.config import STAGES
from tests.conftest import ROOT

ROOMS = (
    *("stages", "training", "inference", "tasks"),
    *("subject", "evaluation", "report", "trajectory", "status", "estimates"),
)
ABOVE = {"__main__", "runner", "records", "stages"}  # what runs stages, and they


def arrows() -> dict[str, set[str]]:
    """{room: the rooms that an arrow of the picture leads to}."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    (picture,) = re.findall(r"^```mermaid\n(.*?)^```", page, re.M | re.S)
    found: dict[str, set[str]] = {}
    for start, ends in re.findall(r"^ +(\w+)(?:\[.*\])? --> (.*)$", picture, re.M):
        found.setdefault(start, set()).update(ends.split(" & "))
    return found


def below(room: str) -> set[str]:
    """All rooms that arrows lead to from `room`, and itself."""
    reached, edges = {room}, arrows()
    while more := {end for start in reached for end in edges.get(start, ())} - reached:
        reached |= more
    return reached


def imported(path: Path) -> set[str]:
    """The rooms of the package that a file imports from, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "pipeline" and len(part) > 1}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_picture(room: str) -> None:
    """Would catch an import that points up, and a picture that is no longer true."""
    for path in (ROOT / "pipeline" / room).rglob("*.py"):
        found = imported(path)
        assert found & set(ROOMS) <= below(room), path
        assert room == "stages" or not found & ABOVE, path
    assert room not in {end for start in below(room) - {room} for end in below(start)}


def test_the_room_of_the_stages_holds_stages_only() -> None:
    """Would catch what stages share put between them, where it can only be used with a runner."""
    found = {path.stem for path in (ROOT / "pipeline" / "stages").rglob("*.py")}
    assert found == {*STAGES, "base", "__init__"}


def test_every_room_is_in_the_picture_and_in_these_tests() -> None:
    """Would catch a room that no arrow leads to, whose imports nobody looks at."""
    rooms = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert rooms == set(ROOMS)
    assert rooms <= below("runner")
