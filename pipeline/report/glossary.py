"""What each number on the page means."""

from __future__ import annotations

from pipeline.report.html import Section, render

GLOSSARY = (
    (
        "R²",
        "Share of a scalar's variance over the snapshots that a straight line over the RL step "
        "explains: the squared correlation of value and step. 1 is a perfect line.",
    ),
    (
        "filter",
        "Weights that hardly move carry rounding rather than movement, so those that change by "
        "less than a threshold or take too few distinct values are left out, and tokens whose "
        "log-probability changes little likewise. That raises R²; hence the unfiltered figures, in "
        "which a scalar that never moves counts as R² 0.",
    ),
    (
        "relative movement",
        "‖θ(last) − θ(first)‖ / ‖θ(first)‖ over all weights: how far training moved the model.",
    ),
    (
        "straightness",
        "The cosine between the two halves of the path that extrapolation sees: 1 is a straight "
        "line, 0 a right angle. The halves part at the snapshot nearest to half-way.",
    ),
    (
        "reach",
        "Of a target: how far the line goes on beyond the last snapshot seen, in norms of the "
        "weights: relative movement × (target − last) / (last − first).",
    ),
    (
        "hidden states",
        "The residual stream of the model after its embedding and after each layer, at every "
        "position of fixed texts; one component at one position is one value.",
    ),
    (
        "W Δx, ΔW x, ΔW Δx",
        "The parts of a linear layer's output change between two snapshots: its input changed, "
        "its weights changed, both. A part's share is its projection on the whole change.",
    ),
    (
        "avg@k",
        "Share of correct answers over k sampled responses to each problem, averaged over "
        "problems: the chance that one sample is right.",
    ),
    (
        "pass@k",
        "Chance that at least one of k samples is right, estimated without bias from all samples.",
    ),
    (
        "maj@k",
        "Share of problems whose most frequent answer among the k samples is right; equal answers "
        "count together, however they are written. With one sample it is avg@1.",
    ),
    (
        "sharpening control",
        "A lower temperature raises accuracy at no cost where a model knows more than it shows. "
        "So base, real RL and the chosen predictions are also sampled greedily and at lower "
        "temperatures; each model's temperature, and the trained model to beat, are chosen on "
        "validation. What is left on the test problems is a gain, the rest sharpening.",
    ),
    (
        "95 % interval",
        "Wilson's score interval over an effective number of problems. It covers which problems "
        "were asked and the sampling noise in them, not another training run with another seed.",
    ),
    (
        "difference, points",
        "Of avg@k in percentage points, to the RL checkpoint that the table names, taken problem "
        "by problem on the same problems (paired), with Tango's score interval. "
        "Intervals are not corrected for several comparisons.",
    ),
    (
        "p",
        "Chance of a difference at least as large if the two models were interchangeable on "
        "every problem (sign-flip test).",
    ),
    (
        "horizon",
        "The step that weights are extrapolated to: θ* = θ₀ + Σ cᵢ (θᵢ − θ₀), "
        "with coefficients c from the method.",
    ),
    (
        "α",
        "How far logits are extrapolated: l* = l₀ + α (l₁ − l₀). 0 is the earlier checkpoint, "
        "1 the later one.",
    ),
    (
        "chosen",
        "Best on validation problems, which are disjoint from the test problems; "
        "the test scores had no part in the choice.",
    ),
    (
        "truncated",
        "Share of responses cut off at the token limit before they ended.",
    ),
    (
        "collapsed",
        "Responses of a kind that no working model gives: cut, without an answer, in loops, all "
        "alike, or noise; far more of them than at the last checkpoint that extrapolation has "
        "seen, and beyond chance (p < 0.001).",
    ),
    (
        "agreement",
        "Share of a problem's most frequent answer among its samples, averaged over problems. "
        "Needs no reference answer.",
    ),
    (
        "regret",
        "How much better on validation problems the choice with labels is than one without them.",
    ),
    (
        "ungraded",
        "Responses without an answer that could be found, gradings that hit the time limit, and "
        "responses to problems whose reference answer cannot be read. All count as wrong.",
    ),
)


def glossary() -> Section:
    """What each number on the page means."""
    body = render("glossary", terms=GLOSSARY)
    return Section("glossary", "Terms", "What the numbers mean", body)
