"""Faults caught: models of one evaluation that stop at different tokens, so that a mixture of
logits is compared with real RL under another rule; and results of an old rule that are kept."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import read_json, read_jsonl, write_json
from pipeline.config import MemberConfig
from pipeline.errors import PipelineError
from pipeline.evaluation import members, named_models
from pipeline.inference.vllm.engine import stopping
from pipeline.records import record
from pipeline.stages import evaluate, logit_extrap, snapshot
from pipeline.stages.base import Context
from pipeline.trajectory.conversation import end_tokens
from pipeline.trajectory.sources import discover
from tests.stages.contexts import context_of

GENERATION = "generation_config.json"
DIGIT = 5  # an id that the pico models write in nearly every response


@pytest.fixture
def place(pico_run: Path, tmp_path: Path) -> Path:
    """A run's configuration, with its base and its checkpoints beside it."""
    shutil.copytree(pico_run / "rl_train" / "snapshots", tmp_path / "run")
    shutil.copytree(pico_run / "sft_train" / "model", tmp_path / "base")
    (tmp_path / "out").mkdir()
    shutil.copy(pico_run / "config.yaml", tmp_path / "out")
    return tmp_path


def last_of(place: Path) -> Path:
    return max(
        (place / "run").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_"))
    )


def put(folder: Path, ends: Any) -> None:
    """An end of the model's own, as trainers leave it."""
    file = folder / GENERATION
    write_json(file, {**(read_json(file) if file.exists() else {}), "eos_token_id": ends})


def context(place: Path, **values: Any) -> Context:
    given = {"snapshot__source": str(place / "run"), "snapshot__base": str(place / "base")}
    few = {"evaluate__test_problems": 8, "evaluate__validation_problems": 4}
    ends = {"logit_extrap__alphas": [0.0, 1.0], "evaluate__controls": False}
    return context_of(place / "out", **given, **few, **ends, **values)


def rows_of(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """By model, what each response was."""
    kept = ("task", "split", "problem_id", "sample", "text", "tokens", "finish_reason")
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in read_jsonl(file):
        found.setdefault(row["model"], []).append(tuple(row[key] for key in kept))
    return {model: sorted(rows) for model, rows in found.items()}


@pytest.mark.parametrize("which", ["base", "last"])
def test_a_mixture_that_is_one_model_says_what_that_model_says(which: str, place: Path) -> None:
    """l0 at alpha 0 and l1 at alpha 1 are exactly the base and the last checkpoint: their responses
    must be the same to the token, whichever folder names an end of its own. The mixture's second
    is not the run's last."""
    put(place / "base" if which == "base" else last_of(place), [1, DIGIT])
    one = context(place)
    snapshot.run(one)
    _, step = one.ends(one.trajectory.steps)
    logit_extrap.run(one)
    evaluate.run(one)
    found = rows_of(place / "out/evaluate/generations.jsonl")
    found |= rows_of(place / "out/logit_extrap/generations.jsonl")
    assert one.end_tokens == [1, DIGIT]
    assert found["logit-0"] == found["base"]
    assert found["logit-1"] == found[f"rl-{step}"]
    for stage in ("logit_extrap", "evaluate"):
        assert {
            row["finish_reason"] for row in read_jsonl(place / f"out/{stage}/generations.jsonl")
        }
    short = sum(row[-1] == "stop" for rows in found.values() for row in rows)
    assert short > len(found["base"])  # the rule was at work


@pytest.mark.parametrize("name", ["linear_probe", "logit_extrap", "evaluate"])
@pytest.mark.parametrize("edit", ["ends", "template", "a tokenizer's end"])
def test_the_last_checkpoint_alone_changes_what_is_made(edit: str, name: str, place: Path) -> None:
    """A stage that counts as done although the rule that its responses stop by is another."""
    snapshot.run(context(place))
    for stage in ("snapshot", "weight_extrap", "logit_extrap"):
        (place / "out" / stage).mkdir(exist_ok=True)
        write_json(place / "out" / stage / "done.json", {"key": "k"})
    last = last_of(place)
    before = record(context(place), name).key
    if edit == "ends":
        put(last, [1, DIGIT])
    elif edit == "template":
        (last / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    else:
        file = last / "tokenizer_config.json"
        write_json(file, {**read_json(file), "eos_token": "7"})
    assert record(context(place), name).key != before


def test_rows_of_another_rule_are_not_counted(place: Path) -> None:
    """Responses that stopped elsewhere, taken for those of the new rule; and ones made again after
    an edit that decides nothing."""
    first = context(place)
    snapshot.run(first)
    logit_extrap.run(first)
    file = place / "out/logit_extrap/generations.jsonl"
    count = len(read_jsonl(file))
    put(last_of(place), [1])
    assert logit_extrap.run(context(place))["generations"] == 0
    put(last_of(place), [1, DIGIT])
    assert logit_extrap.run(context(place))["generations"] == count


@pytest.mark.parametrize(
    ("base", "last", "wanted"),
    [
        (None, None, [1]),
        ([1, 5], None, [1, 5]),
        (None, 5, [1, 5]),
        ([1, 6], [5], [1, 5, 6]),
        (None, [1, 10**6], [1]),  # no model can draw it, and vLLM refuses it
    ],
)
def test_the_rule(base: Any, last: Any, wanted: list[int], place: Path) -> None:
    """An end that is left out: of a list, of the base, of the last checkpoint."""
    for folder, ends in ((place / "base", base), (last_of(place), last)):
        if ends is not None:
            put(folder, ends)
    assert end_tokens(discover(place / "run", place / "base")) == wanted


def test_a_generation_config_without_a_tokenizer_counts(place: Path) -> None:
    """Trainers that are given no tokenizer save the model's settings alone."""
    last = last_of(place)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (last / file).unlink()
    put(last, 5)
    assert end_tokens(discover(place / "run", place / "base")) == [1, 5]


@pytest.mark.parametrize("ends", ["2", True, [1, None], -1, 1.5])
def test_what_is_no_token_id_is_refused(ends: Any, place: Path) -> None:
    put(last_of(place), ends)
    with pytest.raises(PipelineError, match=r"generation_config.json: eos_token_id .* no token id"):
        end_tokens(discover(place / "run", place / "base"))


def test_vllm_is_told_the_same(place: Path) -> None:
    """The tokenizer's or the generation config's end beside the rule's: vLLM adds them unasked."""
    vllm = pytest.importorskip("vllm")
    put(last_of(place), 5)
    one = context(place)
    snapshot.run(one)
    for engine in (one.engine_on(place / "base"), one.engine_on(place / "base", last_of(place))):
        assert (engine["tokenizer"], engine["ends"]) == (str(place / "base"), [1, 5])
    params = vllm.SamplingParams(**stopping([5, 6]))
    params.update_from_generation_config({"eos_token_id": [1, 7]}, eos_token_id=1)
    assert (params.eos_token_id, params.stop_token_ids) == (None, [5, 6])
    free = vllm.SamplingParams(**stopping(None))
    free.update_from_generation_config({"eos_token_id": [1, 7]}, eos_token_id=1)
    assert (free.eos_token_id, set(free.stop_token_ids)) == (1, {7})


@pytest.mark.parametrize("kind", ["named", "member"])
def test_a_model_from_elsewhere_with_more_ends_is_warned_of(
    kind: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that runs on past its own end, and is taken for a worse one."""
    other = Path(shutil.copytree(last_of(place), place / "other"))
    named: dict[str, Any] = {"evaluate__models": {"theirs": str(other)}}
    mixed = [MemberConfig("0", 0.5), MemberConfig(str(other), 0.5)]
    values = named if kind == "named" else {"logit_extrap__members": mixed}
    snapshot.run(context(place))

    def said() -> str:
        caplog.clear()
        one = context(place, **values)
        if kind == "named":
            named_models.named_candidates(one, named_models.open_checkpoints(one))
        else:
            members.mixture_candidates(one)
        return caplog.text

    with caplog.at_level(logging.WARNING, "pipeline.subject.found"):
        assert said() == ""
        put(other, [1, 5])
        key = "evaluate.models.theirs" if kind == "named" else "logit_extrap.members[1].model"
        assert f"{key}: ends its responses at tokens 5 too" in said()
        put(place / "base", [1, 5])  # as the message has it
        assert said() == ""
