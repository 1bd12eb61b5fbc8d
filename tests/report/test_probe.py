"""Faults caught: shares averaged over the wrong layers, layers that did not change counted in."""

from __future__ import annotations

import pytest

from pipeline.report.figures.activations import drivers
from pipeline.report.probe import driven

from .synthetic import driver

STILL = dict.fromkeys(("input_change", "weight_change", "cross", "bias_change"))


def test_drivers_are_means_by_kind_in_the_order_of_the_model() -> None:
    rows = [
        driver("model.layers.0.self_attn.q_proj", 0.2, 0.0),
        driver("model.layers.0.mlp.up_proj", 0.9, 0.0),
        driver("model.layers.1.self_attn.q_proj", 0.4, 0.0),
        {**driver("model.layers.1.mlp.up_proj"), **STILL},
        {**driver("lm_head", 0.0, -0.1), "output_change": 0.5},
    ]
    found = drivers(rows)
    assert [one.kind for one in found] == ["q_proj", "up_proj", "lm_head"]
    assert [one.shares["weight_change"] for one in found] == pytest.approx([0.3, 0.9, 0.0])
    assert [one.shares["input_change"] for one in found] == pytest.approx([0.7, 0.1, 1.1])
    assert [one.changed for one in found] == pytest.approx([0.08, 0.08, 0.5])


def test_the_sentence_leaves_out_what_did_not_change() -> None:
    rows = [driver("a", 0.2, 0.0), driver("b", 0.4, 0.1), {**driver("c"), **STILL}]
    text = driven(rows).replace("\u00a0", " ")
    assert "Over 2 linear layers the changed input makes 65.0 %" in text
    assert "own weights 30.0 %; the cross term has at most 11.0 % of its norm" in text
    assert driven([rows[2]]) == ""
