"""Every command of README, docs, launchers and experiments composes as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline.checks import check
from pipeline.config import CONF
from tests.test_configs import composed

ROOT = CONF.parent
SETTING = re.compile(r"\+{0,2}~?[a-z_]+([./@:][\w./]+)*=.*")
PLACES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "launchers").rglob("*.s*")]
PLACES += (CONF / "experiment").glob("*.yaml")


def commands(path: Path) -> list[tuple[str, ...]]:
    """The settings of each command in a file: of lines with an experiment, or of nothing else."""
    text = path.read_text()
    if path.suffix == ".md":
        blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        blocks += re.findall(
            r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M
        )
        text = "\n".join(blocks)
    else:
        text = "\n".join(re.findall(r"^#  +(.*)", text, re.MULTILINE))
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if "=" not in line:
            continue
        words = shlex.split(line, comments=True)
        settings = tuple(word for word in words if SETTING.fullmatch(word))
        if any(word.startswith("+experiment=") for word in words):
            found.append(settings)
        elif words and len(settings) == len(words):
            found.append(("+experiment=from_checkpoints", "snapshot.source=RUN", *settings))
    return found


def first_of_sweep(settings: tuple[str, ...]) -> list[str]:
    """The settings of a sweep's first job, without those of Hydra itself."""
    chosen = []
    for override in OverridesParser.create().parse_overrides(list(settings)):
        if override.key_or_group.startswith("hydra"):
            continue
        line = str(override.input_line)
        if override.is_sweep_override():
            value = next(iter(override.sweep_string_iterator()))
            line = f"{line.partition('=')[0]}={value}"
        chosen.append(line)
    return chosen


COMMANDS = [(path.name, settings) for path in PLACES for settings in commands(path)]


@pytest.mark.parametrize(("page", "settings"), COMMANDS)
def test_a_documented_command_composes(page: str, settings: tuple[str, ...]) -> None:
    """Would catch a command that was right once, and a value that cannot be set as it says."""
    check(composed(*first_of_sweep(settings)))


def test_commands_are_found() -> None:
    """Would catch a pattern that no longer matches what the pages look like."""
    found = {page for page, _ in COMMANDS}
    wanted = {"README.md", "evaluate.md", "tasks.md", "launching.md", "results.md", "local.sh"}
    assert wanted <= found
    assert ("README.md", ("+experiment=qwen_math",)) in COMMANDS
    assert any("task.options.splits=" in " ".join(settings) for _, settings in COMMANDS)
