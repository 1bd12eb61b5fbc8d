"""Sections on linearity: of the weights, of token log-probabilities, and of hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from pipeline.errors import PipelineError
from pipeline.report import figures, words
from pipeline.report.figures.activations import drivers
from pipeline.report.html import Album, Section, absent_section, words_table
from pipeline.report.inputs import Artefacts
from pipeline.report.tensor_names import cells
from pipeline.trajectory.prospects import STUDY, asked, prospects


def weights(run: Artefacts, album: Album) -> Section:
    """Linearity of the weights: histogram, map over tensors, single fits."""
    probe = run.weights
    if probe is None:
        return absent_section("weights", "Weight R²", ["linear_probe"])
    body = album.figure(
        "weights_r2",
        partial(figures.r2_histogram, probe, "weights"),
        "Histogram of the R² of every weight against the RL step",
        "How straight the weights move.",
        "Mass at the right means that a straight line "
        "over the steps explains the movement. "
        f"{words.filtered(probe, 'weights')} Filled and outlined histogram are each "
        "scaled to their own total; the thin grey line is at 0.7.",
    )
    tensors, counted = _tensors_to_map(probe)
    if tensors:
        body += album.figure(
            "weights_heat_map",
            partial(figures.r2_heat_map, tensors),
            "Mean R² by kind of tensor and layer",
            "Where it is straight.",
            f"{_extremes(tensors)} Rows are kinds of "
            "tensor, columns layers; tensors outside the layers stand at the side. "
            f"Mean over {counted}.",
        )
    if run.weight_examples:
        body += album.figure(
            "weight_examples",
            partial(figures.weight_fits, run.weight_examples),
            "Paths of single weights over the RL steps with fitted lines",
            "Single weights.",
            "Dots are the snapshots, the line is the least-squares fit "
            "that R² refers to. Titles name the tensor and the position in it.",
        )
    return Section("weights", "Weights", "Linearity of the weights", body + before(run))


def before(run: Artefacts) -> Markup:
    """What the path says of the predictions before any is evaluated; nothing where an earlier
    version has measured it, or other checkpoints were."""
    probe, extrap = run.weights or {}, run.section("weight_extrap")
    if "gram" not in probe or probe["steps"] != run.times or run.last_step is None:
        return Markup("")
    first, last = run.first_step, run.last_step
    targets = asked(extrap.get("targets") or [], extrap.get("alphas") or [], first, last)
    try:
        found = prospects(probe, run.steps, first, last, targets)
    except PipelineError as error:  # a run that jumped: its path is no line to follow
        return words_table([("Before evaluation", f"Nothing is said: {error}.")])
    told = {
        "Path": found.path,
        "Predictions": "; ".join(filter(None, (found.far, found.beyond))),
        "To compare": STUDY.words,
    }
    pairs = [(name, f"{text[0].upper()}{text[1:]}.") for name, text in told.items() if text]
    return words_table(pairs)


def logprobs(run: Artefacts, album: Album) -> Section:
    """Linearity of the token log-probabilities: histogram and example tokens."""
    probe = run.logprobs
    if probe is None:
        return absent_section("logprobs", "Log-prob R²", ["linear_probe"])
    body = album.figure(
        "logprobs_r2",
        partial(figures.r2_histogram, probe, "tokens"),
        "Histogram of the R² of token log-probabilities against the RL step",
        "How straight the outputs move.",
        "Responses of the base model are held fixed and "
        "every checkpoint scores each of their tokens. " + words.filtered(probe, "tokens"),
    )
    if probe.get("r2_by_base_probability") and probe.get("r2_by_change"):
        bins = probe["r2_by_base_probability"], probe["r2_by_change"]
        body += album.figure(
            "logprobs_bins",
            partial(figures.token_bins, *bins),
            "Median R² of tokens by base probability and by change of log-probability",
            "Which tokens move straight.",
            "Median R² of the tokens in each bin, for those "
            "that pass the filter (filled) and for all (open). A bin with few tokens says "
            "little; tokens that hardly change carry rounding and noise.",
        )
    if run.token_examples:
        body += album.figure(
            "token_examples",
            partial(figures.token_fits, run.token_examples),
            "Log-probabilities of single tokens over the RL steps with fitted lines",
            "Single tokens.",
            "The token stands between the marks ▸ ◂ after the text that "
            "precedes it. Rising lines are tokens that RL made likelier.",
        )
    return Section("logprobs", "Log-probs", "Linearity of token log-probabilities", body)


def activations(run: Artefacts, album: Album) -> Section:
    """Linearity of the hidden states, and what changes the output of each linear layer."""
    probe = run.activations
    if probe is None:
        return absent_section("activations", "Hidden-state R²", ["linear_probe"])
    least = 100 * probe["filters"]["min_change"]
    body = album.figure(
        "activations_r2",
        partial(figures.hidden_state_r2, probe["layers"]),
        "Median R² of hidden states over the depth of the model, and how far they moved",
        "How straight the hidden states move.",
        f"{words.count(probe['positions'])} "
        "positions of the same fixed texts; every component of the residual stream at each is "
        f"one series. {words.filtered(probe, 'hidden-state values')} It keeps those "
        f"that change by more than {least:g} % of the median size in their layer. Below, "
        "‖Δh‖ / ‖h‖ from the first to the last snapshot.",
    )
    if drivers(probe["decomposition"]):
        body += album.figure(
            "activations_change",
            partial(figures.change_shares, probe["decomposition"]),
            "What changed the output of each kind of linear layer",
            "What changes a layer's output.",
            "Between the first and the last snapshot "
            f"Δy = W Δx + ΔW x + ΔW Δx. {driven(probe['decomposition'])} A share is "
            "the term's projection on Δy, so shares add up to 100 %; bars are means over the "
            "layers.",
        )
    return Section("activations", "Hidden states", "Linearity of hidden states", body)


def driven(rows: Sequence[Mapping[str, Any]]) -> str:
    """What changes the outputs of linear layers, in a sentence; "" where none changed.

    Args:
        rows: `decomposition` of activations.json.
    """
    moved = [row for row in rows if row["input_change"] is not None]
    if not moved:
        return ""

    def mean(term: str) -> str:
        return words.percent(sum(row[term] for row in moved) / len(moved))

    cross = max(row["norms"]["cross"] for row in moved)
    return (
        f"Over {len(moved)} linear layers the changed input makes {mean('input_change')} of the "
        f"output's change on average, the layer's own weights {mean('weight_change')}; the cross "
        f"term has at most {words.percent(cross)} of its norm."
    )


def _tensors_to_map(probe: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], str]:
    """Rows for the heat map and what they count: all weights if none passed the filter."""
    tensors = list(probe["tensors"])
    if any(tensor["r2_mean"] is not None for tensor in tensors):
        return tensors, "the weights that pass the filter"
    everything: list[Mapping[str, Any]] = [
        {"name": t["name"], "kept": t["total"], "r2_mean": t["unfiltered"]["r2_mean"]}
        for t in tensors
        if t.get("unfiltered")
    ]
    return everything, "all weights, since none passed the filter"


def _extremes(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Names the straightest and the least straight kind of tensor, over all layers."""
    sums: dict[str, list[float]] = {}
    for cell in cells(tensors):
        if cell.r2 is not None:
            sums.setdefault(cell.kind, []).append(cell.r2)
    means = sorted((sum(v) / len(v), kind) for kind, v in sums.items())
    if len(means) < 2:
        return ""
    (low, worst), (high, best) = means[0], means[-1]
    return f"Straightest on average: {best} ({high:.2f}); least: {worst} ({low:.2f})."
