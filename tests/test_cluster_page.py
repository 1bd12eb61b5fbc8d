"""Would catch a number in docs/cluster.md that a dry run does not print any more, or never did."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.estimates.test_words import plan
from tests.test_configs import composed

PAGE = (ROOT / "docs" / "cluster.md").read_text()
(COMMAND,) = re.findall(r"^python -m pipeline (.*dry_run=true)$", PAGE, re.M)
(SHOWN,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\| `.*$", PAGE, re.M)
]


@cache
def dry_run(settings: str) -> dict[str, str]:
    """The plan of each stage, under the page's command with other settings behind it."""
    given = shlex.split(f"{COMMAND} tracking.mode=disabled {settings}")
    config = composed(*{line.partition("=")[0]: line for line in given}.values())
    return {stage: plan(config, stage, Path("outputs/test")) for stage in config.stages}


@pytest.mark.parametrize("line", SHOWN.splitlines())
def test_a_dry_run_prints_what_the_page_shows(line: str) -> None:
    printed = "\n".join(dry_run("").values()).splitlines()
    assert line in [each.strip() for each in printed]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table_is_what_dry_runs_print(row: list[str]) -> None:
    settings, training, peak, network, checkpoint, hours, evaluation = row
    plans = dry_run(settings.strip("`"))
    rl = plans["rl_train"]
    assert f"training: {training} of " in rl
    assert f"peak a device: {peak} of " in rl
    assert (f"each device sends {network} a step" in rl) == bool(network)
    assert f"checkpoints of {checkpoint} = " in rl
    assert re.search(rf"time on \d+ x \w+: {hours} at that length", rl)
    assert f": at most {evaluation} and the start" in plans["evaluate"]
    assert "more than there is" not in "".join(plans.values())
    assert "no room" not in "".join(plans.values())


def test_numbers_in_the_text_are_a_dry_runs() -> None:
    plans = dry_run("")
    assert "28 snapshots of 3.56 GB" in " ".join(PAGE.split())
    assert "28 snapshots of 3.56 GB" in plans["rl_train"]
    assert "checkpoints of 28.5 GB" in plans["rl_train"]
    assert "disk: 14.2 GB" in plans["weight_extrap"]
    disks = [plans[stage] for stage in ("logit_extrap", "evaluate")]
    written = [float(found) for text in disks for found in re.findall(r"most ([\d.]+) GB", text)]
    assert f"up to {sum(written):.0f} GB of responses" in PAGE


def test_compute_alone_tells_machines_apart() -> None:
    """One GPU, eight, four times eight: the ranks that a plan names, and nothing else set."""
    ranks = {}
    for name in ("one_gpu", "node_8_gpus", "four_nodes_8_gpus"):
        found = re.search(r"time on (\d+) x h100", dry_run(f"compute={name}")["rl_train"])
        assert found is not None
        ranks[name] = int(found[1])
    assert ranks == {"one_gpu": 1, "node_8_gpus": 8, "four_nodes_8_gpus": 32}
