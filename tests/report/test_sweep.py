"""The page over a sweep, from jobs as the evaluate stage would leave them."""

from __future__ import annotations

import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artifacts import read_json, read_jsonl, write_json, write_text
from pipeline.errors import PipelineError
from pipeline.evaluation.students import mean_interval, quantile
from pipeline.report.sweep.inputs import read_jobs
from pipeline.report.sweep.page import write_sweep_page
from tests.conftest import ROOT
from tests.report.drawing import light_only
from tests.report.synthetic import config, row

T_TWO = 4.302652729911275  # of two degrees of freedom, 95 %: any table of Student's t
SEEDS, LASTS, TARGETS = (0, 1, 2), (40, 60), (80, 120)


def level(split: str, seed: int, last: int, target: int) -> float:
    """The longer prefix is better, and on test the longer horizon is worse."""
    part = 0.02 if split == "validation" else -0.01
    return 0.3 + 0.01 * seed + (0.02 if last == 60 else 0.0) + (part if target == 120 else 0.0)


def write_job(folder: Path, seed: int, last: int, target: int, **extra: Any) -> None:
    values = {**config(), "seed": seed, "weight_extrap": {"targets": [target]}, **extra}
    values["extrapolation"] = {**values["extrapolation"], "last": last}
    write_text(folder / "config.yaml", yaml.safe_dump(values))
    rows = []
    for split in ("validation", "test"):
        final = 0.28 + 0.01 * seed
        rows.append(row("base", "base", split, 0.2, final))
        rows += [row(f"rl-{s}", "rl", split, 0.002 * s + 0.08 + 0.01 * seed, final, step=s)
                 for s in (20, 40, 60, 100)]  # fmt: skip
        score = level(split, seed, last, target)
        name = f"two_point-{target}"
        rows.append(row(name, "weight", split, score, final, method="two_point", step=target))
    write_json(folder / "evaluate" / "scores.json", {"rows": rows, "last_rl": "rl-100"})
    write_json(folder / "status.json", {"state": "done", "stages": ["evaluate"], "stage": None})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder, jobs = tmp_path / "sweep", []
    grid = [(seed, last, target) for seed in SEEDS for last in LASTS for target in TARGETS]
    for number, (seed, last, target) in enumerate(grid):
        write_job(folder / str(number), seed, last, target)
        jobs.append([f"seed={seed}", f"extrapolation.last={last}", f"targets=[{target}]"])
    write_json(folder / "sweep.json", {"command": [], "jobs": [*jobs, ["seed=3"]], "started": 0})
    return folder


def test_means_and_intervals_over_seeds(sweep: Path) -> None:
    """Would catch jobs of one seed that count twice, horizons or prefixes that are mixed up, and
    an interval over problems where one over seeds is due."""
    jobs = read_jobs([sweep])
    assert jobs.varying == ["extrapolation.last", "seed"]
    assert jobs.last is None
    rows = {(r["model"], r["split"]): r for r in jobs.rows}
    assert len(rows) == len(jobs.rows)
    for last in LASTS:
        for target in TARGETS:
            found = rows[f"two_point-{target} (last={last})", "test"]
            values = [level("test", seed, last, target) for seed in SEEDS]
            half = T_TWO * statistics.stdev(values) / math.sqrt(3)
            mean = statistics.mean(values)
            assert found["avg@k"] == pytest.approx(mean)
            assert found["ci95"] == pytest.approx([mean - half, mean + half])
            assert found["seeds"] == 3
            gain = statistics.mean(v - 0.28 - 0.01 * seed for seed, v in enumerate(values))
            assert found["gain"]["diff"] == pytest.approx(gain)
    real = rows["rl-40", "test"]  # of no prefix: the same run in all jobs of a seed
    assert real["seeds"] == 3
    assert real["avg@k"] == pytest.approx(0.17)


def test_the_choice_is_made_on_validation(sweep: Path) -> None:
    """Would catch a choice on test problems, which prefer the shorter horizon."""
    jobs = read_jobs([sweep])
    assert jobs.chosen["weight"]["model"] == "two_point-120 (last=60)"
    assert {r["model"] for r in jobs.rows if r["chosen"]} == {"two_point-120 (last=60)"}


def test_a_model_of_few_seeds_is_not_chosen(sweep: Path) -> None:
    """Would catch luck: one seed that is far above, of a setting whose other seeds have not run."""
    write_job(sweep / "12", 2, 60, 140)
    path = sweep / "12" / "evaluate" / "scores.json"
    scores = read_json(path)
    for each in scores["rows"]:
        if each["kind"] == "weight":
            each["avg@k"] = 0.9
    write_json(path, scores)
    jobs = read_jobs([sweep])
    assert any(r["model"] == "two_point-140 (last=60)" for r in jobs.rows)
    assert jobs.chosen["weight"]["model"] == "two_point-120 (last=60)"


def test_other_training_is_another_figure(sweep: Path) -> None:
    """Would catch RL runs of different values drawn as one line."""
    write_job(sweep / "12", 0, 60, 120, algorithm={"learning_rate": 1e-5})
    trainings = {r["training"] for r in read_jobs([sweep]).rows if r["kind"] == "rl"}
    assert trainings == {"learning_rate=None", "learning_rate=1e-05"}


def test_the_command_makes_one_page(sweep: Path) -> None:
    """Would catch a page that lacks a job, links to anything, or differs the second time."""
    command = [sys.executable, "-m", "pipeline.report", str(sweep)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    page = sweep / "report" / "index.html"
    assert done.stdout == f"report: {page}\n"
    text = page.read_text()
    assert "12 of 13 jobs evaluated" in text
    assert "two_point-120 (last=60): 35.0" in text
    assert "queued" in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert (sweep / "report" / "horizon_0.png").exists()
    assert len(read_jsonl(sweep / "report" / "rows.jsonl")) == len(read_jobs([sweep]).rows)


def test_one_run_and_runs_of_several_folders(sweep: Path) -> None:
    """Would catch seeds in folders of their own that cannot be brought together."""
    jobs = read_jobs([sweep / "0", sweep / "5"])
    assert jobs.folder == sweep.resolve()
    with pytest.raises(PipelineError, match="no such folder"):
        read_jobs([sweep / "nowhere"])
    (sweep / "0" / "evaluate" / "scores.json").unlink()
    with pytest.raises(PipelineError, match="none of 1 runs has scores yet"):
        read_jobs([sweep / "0"])


@pytest.mark.parametrize(
    ("freedom", "confidence", "wanted"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (4, 0.9, 2.132), (9, 0.99, 3.250), (120, 0.95, 1.980)],
)
def test_students_quantiles(freedom: int, confidence: float, wanted: float) -> None:
    """Against the printed table."""
    assert quantile(freedom, confidence) == pytest.approx(wanted, abs=5e-4)


def test_an_interval_keeps_to_its_range() -> None:
    """Would catch accuracies below 0, and an interval of one value."""
    assert mean_interval([0.01, 0.05])[0] == 0.0
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(PipelineError, match="needs two"):
        mean_interval([0.5])


def test_logits_do_not_depend_on_the_method(tmp_path: Path) -> None:
    """Would catch a line over α for each method that predicts weights, all of the same mixtures,
    and the best of these copies chosen; the steps that they are made from do tell them apart."""
    number = 0
    for method in ("two_point", "rank1"):
        for last in (40, 60):
            folder, number = tmp_path / "sweep" / str(number), number + 1
            write_job(folder, 0, last, 80, logit_extrap={"alphas": [1.25, 1.5], "speculative": 0})
            values = yaml.safe_load((folder / "config.yaml").read_text())
            values["extrapolation"] |= {"method": method, "name": method}
            write_text(folder / "config.yaml", yaml.safe_dump(values))
            scores = read_json(folder / "evaluate" / "scores.json")
            for split in ("validation", "test"):
                for alpha in (1.25, 1.5):
                    made = row(f"logit-{alpha}", "logit", split, 0.2 + last / 1000, 0.28, step=80)
                    scores["rows"].append({**made, "alpha": alpha})
            write_json(folder / "evaluate" / "scores.json", scores)
    write_json(tmp_path / "sweep" / "sweep.json", {"command": [], "jobs": []})
    jobs = read_jobs([tmp_path / "sweep"])
    logits = [each for each in jobs.rows if each["kind"] == "logit"]
    assert {each["method"] for each in logits} == {"logit (last=40)", "logit (last=60)"}
    assert len(logits) == 2 * 2 * 2
    weights = {each["method"] for each in jobs.rows if each["kind"] == "weight"}
    assert len(weights) == 2  # both jobs call theirs two_point in scores.json
    with light_only():
        page = write_sweep_page([tmp_path / "sweep"]).read_text()
    assert len(list((tmp_path / "sweep" / "report").glob("alpha_*_[0-9].png"))) == 2
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    ringed = [caption for caption in captions if "over α" in caption and "The ring" in caption]
    assert len(ringed) == 1  # only one of the two figures has the one that was chosen
    assert "last=60" in ringed[0]
