"""The audit of refused answers: what it lists, what it leaves alone, what it says is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.tasks import load_problems
from pipeline.tasks.audit import audit, table
from tests.tasks.make import task

# gold, response, the readings that should agree
REFUSED = [
    ("5", "\\boxed{5} and then no end of thought", {"thought"}),
    ("\\frac13", "</think> \\boxed{0.333}", {"near"}),
    ("10", "</think> first \\boxed{10}, then \\boxed{11}", {"another_box"}),
    ("12", "</think> I get 12", {"last_number"}),
    ("5 \\text{ km}", "</think> \\boxed{5 \\text{ m}}", {"units", "near", "math_verify"}),
    ("5", "</think> \\boxed{x+y=5}", {"last_side", "contained", "math_verify"}),
    ("204_5", "</think> \\boxed{204_6}", {"math_verify"}),
    ("\\text{A, B}", "</think> \\boxed{AB}", {"words"}),
    ("7", "</think> \\boxed{8}", set()),
    ("2", "</think> \\boxed{2}", set()),
]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run with two samples of each response."""
    data = tmp_path / "d.jsonl"
    rows = [{"problem": f"Problem {i}?", "answer": gold} for i, (gold, *_) in enumerate(REFUSED)]
    data.write_text("\n".join(map(json.dumps, rows)))
    stored: dict[str, Any] = {
        "name": "m",
        "kind": "math",
        "dataset": {"path": str(data)},
        "prompt_template": None,
        "system_prompt": None,
        "grade_after": "</think>",
        "options": {"splits": {"test": 1.0}, "workers": 2},
    }
    config = {"seed": 0, "task": stored, "eval_tasks": {}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    problems = load_problems(task("m", kind="math", dataset=data), "test", None, 0)
    made = [
        {
            "task": "m",
            "split": "test",
            "problem_id": problem.id,
            "model": f"rl-{sample}",
            "sample": sample,
            "text": text,
        }
        for problem, (_, text, _) in zip(problems, REFUSED, strict=True)
        for sample in range(2)
    ]
    made += [{**made[0], "task": "other"}, {**made[0], "problem_id": "of an older data file"}]
    (tmp_path / "evaluate").mkdir()
    file = tmp_path / "evaluate" / "generations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return tmp_path


def test_refused_answers_are_listed_with_what_agrees(run_dir: Path) -> None:
    """Catches readings that are not tried, right answers in the list, and lost counts."""
    groups = audit(run_dir)
    found = {group["reference"] + str(group["answer"]): set(group["readings"]) for group in groups}
    for gold, text, readings in REFUSED:
        boxed = text.rpartition("\\boxed{")[2].rpartition("}")[0] if "</think>" in text else None
        key = gold + str(boxed or None)
        assert readings <= found.pop(key, set()), (gold, text)
        if not readings:
            assert key not in found
    assert found == {}
    assert {group["count"] for group in groups} == {2}
    assert groups[0]["models"] == {"rl-0": 1, "rl-1": 1}
    shown = table(groups)
    assert shown.splitlines()[1].split()[:2] == ["m", "16"]
    assert "math_verify: math-verify calls them equal" in shown


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.tasks.audit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_the_list_and_prints_the_counts(run_dir: Path) -> None:
    """Catches a command that writes nothing, or a file that is not JSON lines."""
    done = run(f"run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    lines = (run_dir / "evaluate" / "audit.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 8
    assert "8 different answers" in done.stdout


def test_mistakes_are_one_line(run_dir: Path, tmp_path: Path) -> None:
    """Catches tracebacks for a wrong folder, a run without generations or without maths."""
    done = run("run.dir=/no/such/run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: /no/such/run/config.yaml: No such file")
    assert done.stderr.count("\n") == 1
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "evaluate" / "generations.jsonl").unlink()
    with pytest.raises(PipelineError, match="run the stage evaluate first"):
        audit(run_dir)
    config["task"]["kind"] = "addition"
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(PipelineError, match="no task of kind math"):
        audit(run_dir)
    (run_dir / "config.yaml").write_text("[1, 2")
    with pytest.raises(PipelineError, match="not the configuration of a run"):
        audit(run_dir)
