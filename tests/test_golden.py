"""Faults caught: a change that moves the figures of a run without anybody meaning it to.

The figures of one pico run through the command line: losses, gradients, rewards, R², scores. On the
kind of processor that they were taken on they hold to the digit; elsewhere sums are rounded
differently, a sampled token may fall the other way, and only their size is compared.

    python -m tests.test_golden RUN     take them from a finished pico run, if they must change
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import read_json, read_jsonl

GOLDEN = Path(__file__).with_name("golden_pico.json")
TRAINED = ("loss", "grad_norm", "reward", "entropy", "completion_length")
PROBED = ("r2_mean", "r2_median", "r2_share_above_0.7", "scalars_kept", "relative_movement")
ELSEWHERE = 0.35  # of a score, a reward or an R², all between 0 and 1


def processor() -> str:
    """What decides how sums are rounded: vendor, family and the widest instructions in use."""
    fields = {
        key.strip(): value.strip()
        for key, _, value in (
            line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()
        )
    }
    vendor, family = fields.get("vendor_id", "?"), fields.get("cpu family", "?")
    return f"{vendor} family {family} {torch.backends.cpu.get_cpu_capability()}"


def figures(run: Path) -> dict[str, Any]:
    """The golden figures of a finished run, flat."""
    found: dict[str, Any] = {}
    for row in read_jsonl(run / "metrics.jsonl"):
        stage, step = row["stage"], row.get("step")
        if stage == "rl_train" or (stage == "sft_train" and step in (1, 40, 80)):
            found |= {f"{stage}/{step}/{key}": row[key] for key in TRAINED if key in row}
    for part in ("weights", "logprobs", "activations"):
        probe = read_json(run / "linear_probe" / f"{part}.json")
        found |= {f"linear_probe/{part}/{key}": probe[key] for key in PROBED if key in probe}
    scores = read_json(run / "evaluate" / "scores.json")
    for row in scores["rows"]:
        found[f"evaluate/{row['model']}/{row['split']}"] = row["avg@k"]
    for kind, chosen in scores["chosen"].items():
        found[f"chosen/{kind}"] = chosen["model"]
    return found


@pytest.fixture(scope="module")
def found(pico_run: Path) -> dict[str, Any]:
    return figures(pico_run)


def test_the_same_figures_are_there(found: dict[str, Any]) -> None:
    assert sorted(found) == sorted(read_json(GOLDEN)["figures"])


def test_figures_are_those_of_the_last_time(found: dict[str, Any]) -> None:
    golden = read_json(GOLDEN)
    if processor() == golden["processor"]:
        assert found == golden["figures"]
        return
    for key, value in golden["figures"].items():
        if not isinstance(value, str) and "grad_norm" not in key and "length" not in key:
            assert found[key] == pytest.approx(value, abs=ELSEWHERE, rel=0.2), key


if __name__ == "__main__":
    taken = {"processor": processor(), "figures": figures(Path(sys.argv[1]))}
    GOLDEN.write_text(json.dumps(taken, indent=1) + "\n", encoding="utf-8")
