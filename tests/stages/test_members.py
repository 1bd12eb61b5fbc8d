"""A mixture of the user's members in the stages. Faults caught: one that is sampled from another
sum, scored under other content, or that starts with a member which cannot be added."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_json, read_jsonl
from pipeline.checks import check
from pipeline.config import LogitExtrapConfig, MemberConfig
from pipeline.errors import PipelineError
from pipeline.evaluation import members
from pipeline.report.words import model_label
from pipeline.stages import evaluate, logit_extrap
from pipeline.stages.base import Context
from tests.stages.contexts import context_of
from tests.test_configs import composed


@pytest.fixture
def run_dir(pico_run: Path, tmp_path: Path) -> Path:
    """A copy of the pico run, whose checkpoints stay where they are."""
    copy = tmp_path / "run"
    for name in ("snapshot", "weight_extrap", "evaluate", "config.yaml"):
        place = copy / name
        place.parent.mkdir(exist_ok=True)
        (shutil.copytree if (pico_run / name).is_dir() else shutil.copy)(pico_run / name, place)
    return copy


def mixture(run_dir: Path, *given: tuple[object, float], **values: Any) -> Context:
    """The run with these members instead of alphas."""
    found = [MemberConfig(str(model), coefficient) for model, coefficient in given]
    return context_of(run_dir, logit_extrap=LogitExtrapConfig([], found), **values)


def test_a_mixture_is_sampled_and_scored_beside_the_others(run_dir: Path, pico_run: Path) -> None:
    """With all weight on step 4, the same seeds must draw step 4's very responses; the folder of
    step 6 stands for a model from elsewhere. Under the control it is reported as named ones are."""
    outside = pico_run / "rl_train" / "snapshots" / "step_6"
    context = mixture(run_dir, (0, 0.0), (outside, 0.0), (4, 1.0), evaluate__checkpoints=[4])
    plan = logit_extrap.plan(context)
    assert plan.startswith("mixture of 3 (+0 × 0 +0 ×")
    assert "+1 × 4; coefficients sum to 1)" in plan
    assert "3 models" in plan
    made = logit_extrap.run(context)
    rows = read_jsonl(run_dir / "logit_extrap" / "generations.jsonl")
    assert made["generations"] == len(rows) > 0
    key = ("task", "split", "problem_id", "sample")
    drawn = {
        tuple(row[k] for k in key): row["text"]
        for row in read_jsonl(run_dir / "evaluate" / "generations.jsonl")
        if row["model"] == "rl-4"
    }
    assert {tuple(row[k] for k in key): row["text"] for row in rows} == drawn
    (run_dir / "logit_extrap" / "done.json").write_text("{}")
    evaluate.run(context)
    scores = read_json(run_dir / "evaluate" / "scores.json")
    found = {(row["model"], row["split"]): row for row in scores["rows"]}
    for split in ("validation", "test"):
        row = found["mixture", split]
        assert row["kind"] == "mixture"
        assert row["avg@k"] == found["rl-4", split]["avg@k"]
        assert row["coefficient_sum"] == 1
        assert [m["coefficient"] for m in row["members"]] == [0.0, 0.0, 1.0]
        assert row["maj@budget"]["tokens"] <= row["tokens_mean"] * 3 * row["k"]
        assert (
            model_label(row) == "logits, 0\u00a0×\u00a00 + 0\u00a0×\u00a0step_6 + 1\u00a0×\u00a04"
        )
    assert "mixture" not in {choice["model"] for choice in scores["chosen"].values()}
    assert "mixture" in {row["model"] for row in scores["controls"]["rows"]}


def test_the_fingerprint_is_content_and_coefficients(run_dir: Path, tmp_path: Path) -> None:
    """Rows of other coefficients, of members in other places, or of a folder whose weights have
    changed since, that count as this mixture's; rows that are lost because a folder was moved."""
    step = read_json(run_dir / "snapshot" / "trajectory.json")["checkpoints"][-1]["folder"]
    for name in ("a", "b"):
        shutil.copytree(step, tmp_path / name)

    def print_of(*given: tuple[object, float]) -> str:
        [candidate] = members.mixture_candidates(mixture(run_dir, *given))
        return candidate.fingerprint

    first = print_of((0, -0.5), (tmp_path / "a", 1.5))
    assert print_of((0, -0.5), (tmp_path / "b", 1.5)) == first
    assert print_of((0, 1.5), (tmp_path / "a", -0.5)) != first
    assert print_of((tmp_path / "a", 1.5), (0, -0.5)) != first
    weights = tmp_path / "b" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    assert print_of((0, -0.5), (tmp_path / "b", 1.5)) != first
    before = logit_extrap.inputs(mixture(run_dir, (0, 1), (tmp_path / "a", 1)))
    (tmp_path / "a" / "model.safetensors").touch()
    assert logit_extrap.inputs(mixture(run_dir, (0, 1), (tmp_path / "a", 1))) != before
    assert members.mixture_candidates(context_of(run_dir)) == []


def test_members_that_cannot_be_added_are_found_by_the_plan(run_dir: Path, tmp_path: Path) -> None:
    """An hour of training before a folder is found missing, or logits of other tokens added."""
    step = read_json(run_dir / "snapshot" / "trajectory.json")["checkpoints"][0]["folder"]
    for name in ("bare", "hollow", "other", "longer"):
        shutil.copytree(step, tmp_path / name)
    (tmp_path / "bare" / "tokenizer.json").unlink()
    for weights in (tmp_path / "hollow").glob("*.safetensors"):
        weights.unlink()
    file = tmp_path / "other" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokens = tokenizer["model"]["vocab"]
    added = {token["content"] for token in tokenizer["added_tokens"]}  # which come before them
    one, two = [token for token in tokens if token not in added][:2]
    tokens[one], tokens[two] = tokens[two], tokens[one]
    file.write_text(json.dumps(tokenizer))
    config = tmp_path / "longer" / "config.json"
    longer = json.loads(config.read_text())
    config.write_text(json.dumps(longer | {"vocab_size": longer["vocab_size"] + 64}))
    for model, part in (
        (99, r"members\[1\]\.model: there is no checkpoint of step 99; there are 0, "),
        ("absent", r"members\[1\]\.model: absent is no step, no folder and no hub id"),
        (tmp_path / "bare", "bare has no tokenizer"),
        (tmp_path / "hollow", "hollow has no weights"),
        (tmp_path / "other", "its tokenizer is not that of"),
        (tmp_path / "longer", "a vocabulary of .* tokens, and"),
    ):
        with pytest.raises(PipelineError, match=part):
            logit_extrap.plan(mixture(run_dir, (step, 1.0), (model, 1.0)))
    with pytest.raises(PipelineError, match=r"members\[1\]\.model: .* of step 99; there are 0, "):
        members.open_members(mixture(run_dir, (step, 1.0), (99, 1.0)))


def test_a_sum_that_is_not_one_is_said(run_dir: Path) -> None:
    """A mixture that is only sharper than its members, and looks like a gain."""
    words = members.describe(mixture(run_dir, (0, -1.0), (4, 3.0)))
    assert words.endswith("sum to 2, not 1: where the members agree, as temperature 0.5)")
    assert "temperature" not in members.describe(mixture(run_dir, (0, -1.0), (4, 1.0)))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["logit_extrap.members=[{model: 1, coefficient: inf}]"], r"members\[0\]\.coefficient: m"),
        (["logit_extrap.members=[{model: 1, coefficient: 1}]"], "1 alone is no mixture"),
        (["logit_extrap.alphas=[]"], r"or logit_extrap\.members"),
        (
            [
                "logit_extrap.members=[{model: 1, coefficient: 1}, {model: 2, coefficient: -1}]",
                "logit_extrap.alphas=[]",
                "logit_extrap.speculative=4",
            ],
            "members are sampled in lockstep",
        ),
    ],
)
def test_values_that_cannot_be(given: list[str], part: str) -> None:
    """A list of one, an infinite factor, or a draft that no member makes, after hours."""
    with pytest.raises(PipelineError, match=part):
        check(composed("+experiment=pico", *given))


def test_members_compose_as_they_are_written() -> None:
    """Steps, folders and hub ids in the form of the documentation."""
    config = composed(
        "+experiment=pico",
        "logit_extrap.members=[{model: 20, coefficient: -0.5}, {model: org/large, coefficient: 1}]",
    )
    check(config)
    assert config.logit_extrap.members == [MemberConfig("20", -0.5), MemberConfig("org/large", 1)]
