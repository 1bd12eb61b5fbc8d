"""Faults caught: a page that needs the network or other files, numbers that are not the artefacts',
a missing artefact that breaks the page, and an unreadable message for a damaged one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artifacts import read_json, write_json, write_text
from pipeline.errors import PipelineError
from pipeline.report.inputs import read_artefacts
from pipeline.report.page import write_page
from pipeline.report.tables import score_table

from .drawing import light_only, undrawn
from .synthetic import write_run

VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a page refers to, its ids and its text, and checks that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.attributes.append(list(values))
        self.references += [values[key] for key in ("src", "href", "srcset") if key in values]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            self.alts.append(values.get("alt", ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data.replace("\u00a0", " ").replace("\u202f", " ")


def load(run_dir: Path) -> Page:
    return Page((run_dir / "report" / "index.html").read_text(encoding="utf-8"))


def test_page_refers_to_nothing_outside_itself(finished_run: Path) -> None:
    page = load(finished_run)
    assert len(page.references) > 10
    for reference in page.references:
        assert reference.startswith(("data:image/png;base64,", "#")), reference[:80]
        assert not reference.startswith("#") or reference[1:] in page.ids
    raw = (finished_run / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|file://|url\(|@import|<script", raw)
    assert str(finished_run) not in raw


def test_every_figure_is_embedded_and_lies_beside_the_page(finished_run: Path) -> None:
    names = {path.name for path in (finished_run / "report").iterdir()}
    figures = {
        "activations_change",
        "activations_r2",
        "alpha",
        "collapse_alpha",
        "collapse_step",
        "horizon",
        "logprobs_bins",
        "logprobs_r2",
        "models_arithmetic",
        "reward",
        "temperature",
        "token_examples",
        "weight_examples",
        "weights_heat_map",
        "weights_r2",
    }
    assert names == {"index.html"} | {f"{n}{end}.png" for n in figures for end in ("", "-dark")}
    assert len(load(finished_run).alts) == len(figures)
    assert all(load(finished_run).alts)


def test_numbers_on_the_page_are_those_of_the_artefacts(finished_run: Path) -> None:
    text = load(finished_run).text
    scores = read_json(finished_run / "evaluate" / "scores.json")
    for row in scores["rows"]:
        low, high = (100 * bound for bound in row["ci95"])
        assert f"{100 * row['avg@k']:.1f} [{low:.1f}, {high:.1f}]" in text
    weights = read_json(finished_run / "linear_probe" / "weights.json")
    assert f"Median R² is {weights['r2_median']:.2f}" in text
    assert f"the median is {weights['unfiltered']['r2_median']:.2f}" in text
    dropped = 100 * (1 - weights["scalars_kept"] / weights["scalars_total"])
    assert f"The filter dropped {dropped:.1f} %" in text
    assert "moved by 1.23 % of their norm" in text


def test_hidden_states_are_told_with_their_shares(finished_run: Path) -> None:
    """Shares of another term, or a median without what the filter dropped."""
    text = load(finished_run).text
    probe = read_json(finished_run / "linear_probe" / "activations.json")
    assert f"Median R² is {probe['r2_median']:.2f}" in text
    assert (
        "Over 17 linear layers the changed input makes 70.0 % of the output's change on average, "
        "the layer's own weights 31.0 %; the cross term has at most 2.0 % of its norm." in text
    )
    assert "more than 1 % of the median size" in text


def test_log_probs_of_an_earlier_version_have_no_bins(tmp_path: Path) -> None:
    write_run(tmp_path)
    for folder in ("evaluate", "rl_train"):
        shutil.rmtree(tmp_path / folder)
    path = tmp_path / "linear_probe" / "logprobs.json"
    probe = {k: v for k, v in read_json(path).items() if not k.startswith("r2_by_")}
    write_json(path, probe)
    for name in ("weights.json", "activations.json"):
        path.with_name(name).unlink()
    with light_only():
        write_page(tmp_path)
    assert (tmp_path / "report" / "logprobs_r2.png").exists()
    assert not (tmp_path / "report" / "logprobs_bins.png").exists()


def test_run_facts_hold_stages_versions_and_configuration(finished_run: Path) -> None:
    text = load(finished_run).text
    for piece in ("torch 2.13.0", "commit 0123456789ab", "1 min 24 s", "hold:", "r2 0.8012"):
        assert piece in text


@pytest.mark.parametrize(
    ("gain", "badge", "headline"),
    [
        (0.03, "gain", "Logit extrapolation beat the last RL checkpoint"),
        (-0.03, "loss", "Logit extrapolation fell short of the last RL checkpoint"),
        (0.01, "no difference", "Logit and weight extrapolation both showed no difference"),
    ],
)
def test_verdict_follows_the_interval(
    gain: float, badge: str, headline: str, tmp_path: Path
) -> None:
    write_run(tmp_path, {"weight": 0.0, "logit": gain})
    with undrawn():
        write_page(tmp_path)
    text = load(tmp_path).text
    assert headline in text
    assert badge in text


def test_several_tasks_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = tmp_path / "evaluate" / "scores.json"
    scores = read_json(path)
    harder = [
        {
            **row,
            "task": "harder",
            "avg@k": row["avg@k"] * 0.4,
            "ci95": [b * 0.4 for b in row["ci95"]],
        }
        for row in scores["rows"]
    ]
    scores["controls"]["comparisons"] += [
        {**c, "task": "harder"} for c in scores["controls"]["comparisons"]
    ]
    write_json(path, {**scores, "rows": scores["rows"] + harder})
    for folder in ("linear_probe", "rl_train"):
        shutil.rmtree(tmp_path / folder)
    with light_only():
        write_page(tmp_path)
    text = load(tmp_path).text
    assert "Logit extrapolation beat the last RL checkpoint on all 2 tasks" in text
    assert "on the test problems of harder, against 12.9 %" in text
    assert (tmp_path / "report" / "models_harder.png").exists()


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value with other names in it, wherever they stand in a key or a text."""
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
    return value


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    """Would catch a place of the page where a run, task, model, method or what a stage says goes
    in as it is: the page with such names must have the very tags of the page with plain ones."""
    names = {
        "arithmetic": "<i>\"sums\"</i> & 'more'",
        "two_point": '</td><script>"m"</script>',
        "rl-100": "rl-100<b onclick='x'>&amp;",
        "rlx-tiny": '"><h1>{{ 7 * 7 }}</h1>{% raw %}',
    }
    pages = []
    for folder, replace in ((tmp_path / "plain", {}), (tmp_path / "named", names)):
        write_run(folder)
        for stage in ("linear_probe", "rl_train"):
            shutil.rmtree(folder / stage)
        path = folder / "evaluate" / "scores.json"
        write_json(path, renamed(read_json(path), replace))
        for path in folder.rglob("extrapolation.json"):
            write_json(path, renamed(read_json(path), replace))
        config = {
            "name": "rlx-tiny",
            "model": {"name": "two_point"},
            "task": {"name": "arithmetic"},
        }
        write_text(folder / "config.yaml", yaml.safe_dump(renamed(config, replace)))
        path = folder / "evaluate" / "done.json"
        said = {**read_json(path), "summary": {"best": "two_point"}, "git": "rl-100"}
        write_json(path, renamed(said, replace))
        with light_only() if replace else undrawn():
            write_page(folder)
        pages.append(load(folder))
    plain, named = pages
    assert named.tags == plain.tags
    assert named.attributes == plain.attributes
    for name in names.values():
        assert name in named.text
    assert any(names["arithmetic"] in alt for alt in named.alts)


def test_an_empty_run_says_which_stage_makes_what(tmp_path: Path) -> None:
    write_page(tmp_path)
    text = load(tmp_path).text
    for line in (
        "Verdict: not in this run; made by evaluate.",
        "Weight R²: not in this run; made by linear_probe.",
        "Hidden-state R²: not in this run; made by linear_probe.",
        "Reward curve: not in this run; made by rl_train.",
        "Horizon curve: not in this run; made by weight_extrap and evaluate.",
        "α curve: not in this run; made by logit_extrap and evaluate.",
        "Comparison of models: not in this run; made by evaluate.",
        "Scores: not in this run; made by evaluate.",
    ):
        assert line in text
    assert "Linearity of the weights" not in text, "a heading without anything below it"
    assert not list((tmp_path / "report").glob("*.png"))


def test_predictions_without_scores_are_listed(tmp_path: Path) -> None:
    """The run that only extrapolates someone's checkpoints: no evaluation, yet a useful page."""
    write_run(tmp_path)
    for folder in ("evaluate", "rl_train", "linear_probe"):
        shutil.rmtree(tmp_path / folder)
    write_page(tmp_path)
    text = load(tmp_path).text
    assert "Predicted checkpoints" in text
    assert "60: 2.5" in text
    assert "Verdict: not in this run; made by evaluate." in text


def test_figures_that_no_longer_belong_are_removed(tmp_path: Path) -> None:
    write_run(tmp_path)
    for folder in ("evaluate", "linear_probe"):
        shutil.rmtree(tmp_path / folder)
    with undrawn():
        write_page(tmp_path)
    assert (tmp_path / "report" / "reward.png").exists()
    (tmp_path / "rl_train" / "metrics.jsonl").unlink()
    write_page(tmp_path)
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


def test_a_second_call_replaces_the_page(tmp_path: Path) -> None:
    first = write_page(tmp_path).read_text(encoding="utf-8")
    write_text(tmp_path / "config.yaml", "name: other\n")
    second = write_page(tmp_path).read_text(encoding="utf-8")
    assert first != second
    assert "<h1>other</h1>" in second


def test_the_same_artefacts_give_the_same_page(tmp_path: Path) -> None:
    write_run(tmp_path)
    with undrawn():  # a figure drawn twice: test_figures.py
        first = write_page(tmp_path).read_bytes()
        shutil.rmtree(tmp_path / "report")
        assert write_page(tmp_path).read_bytes() == first


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("linear_probe/weights.json", '{"scalars_total": 1', "not valid JSON"),
        ("linear_probe/weights.json", '{"scalars_total": 1}', "no key 'scalars_kept'"),
        ("linear_probe/logprobs.json", "[]", "an object was expected"),
        ("linear_probe/activations.json", '{"r2_mean": 1}', "no key 'scalars_total'"),
        ("evaluate/scores.json", '{"rows": [{"model": "x"}], "last_rl": "y"}', "in row 0 no key"),
        ("snapshot/trajectory.json", "{}", "no key 'steps'"),
        ("config.yaml", "a: [1", "not valid YAML"),
    ],
)
def test_a_damaged_artefact_is_named_in_one_line(
    file: str, content: str, says: str, tmp_path: Path
) -> None:
    write_text(tmp_path / file, content)
    with pytest.raises(PipelineError) as caught:
        write_page(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / file))
    assert says in message
    assert "\n" not in message


def test_no_finished_runectory(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such run directory"):
        write_page(tmp_path / "nowhere")


def test_a_probe_that_kept_nothing_still_gives_a_page(tmp_path: Path) -> None:
    write_run(tmp_path)
    shutil.rmtree(tmp_path / "evaluate")
    shutil.rmtree(tmp_path / "rl_train")
    path = tmp_path / "linear_probe" / "weights.json"
    probe = read_json(path)
    nothing = {"scalars_kept": 0, "r2_mean": None, "r2_median": None, "r2_share_above_0.7": None}
    probe["histogram"]["counts"] = [0] * 1000
    for tensor in probe["tensors"]:
        tensor["unfiltered"] = {"r2_mean": 0.25}
        tensor.update({"kept": 0, "r2_mean": None, "r2_median": None})
    write_json(path, json.loads(json.dumps({**probe, **nothing, "examples": []})))
    for name in ("logprobs.json", "activations.json"):
        path.with_name(name).unlink()
    with light_only():
        write_page(tmp_path)
    text = load(tmp_path).text
    assert "None of the 40 000 weights passed the filter" in text
    assert "Mean over all weights, since none passed the filter" in text


def test_problems_that_cannot_be_judged_are_told_from_wrong_answers(tmp_path: Path) -> None:
    """A data set of broken references whose models all look bad, without a word why."""
    run_dir = write_run(tmp_path)
    assert "cannot be read" not in score_table(read_artefacts(run_dir)).body
    scores = read_json(run_dir / "evaluate" / "scores.json")
    for row in scores["rows"][:2]:
        row["split"], row["no_reference"] = "test", 48
    write_json(run_dir / "evaluate" / "scores.json", scores)
    body = score_table(read_artefacts(run_dir)).body
    assert "cannot be read: 96 of arithmetic, test (all models together)" in body
    assert body.count('<td class="n">51</td>') == 2  # with 3 responses without an answer
