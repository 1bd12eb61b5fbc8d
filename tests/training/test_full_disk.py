"""A disk that is full for another rank than the first: would catch ranks that wait for each other
for ever, an end without a word or with another file's name, and half a checkpoint that counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.training import launch as launching
from pipeline.training.checkpoints import resumable
from pipeline.training.elastic import _exit_code
from pipeline.training.launch import launch
from tests.training.pico import compute, rl_spec

PART = r"snapshots/(\.step_4\.partial|step_4).*: no space left on device"
SHARD = r"checkpoints/checkpoint-8.*: (no space left on device|file too large)"


@pytest.mark.parametrize(
    ("fault", "launcher", "checkpoints", "said"),
    [
        ("part", "torchrun", 2, PART),
        ("part", "deepspeed", 5, PART),
        ("checkpoint", "deepspeed", 2, SHARD),
        ("everything", "torchrun", 2, "2 ranks ended with code 1; what they said is above"),
    ],
)
def test_a_full_disk_of_another_rank(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: str,
    launcher: str,
    checkpoints: int,
    said: str,
) -> None:
    """The part is found missing before a checkpoint, and where there is none between two steps."""
    pytest.importorskip("deepspeed")
    ranks = compute(launcher=launcher, processes=2, zero_stage=2, threads=1)
    wanted = rl_spec(
        tmp_path,
        base,
        steps=6,
        snapshot_every=2 if fault == "part" else 3,
        checkpoint_every=checkpoints,
        snapshot_dtype="delta_bfloat16",
        compute=ranks,
    )
    with monkeypatch.context() as patch:
        patch.setattr(launching, "MODULE", "tests.training.other_rank")
        patch.setenv("OTHER_RANK", fault)
        with pytest.raises(PipelineError, match=said) as caught:
            launch(wanted)
    heard = capfd.readouterr().err
    assert "\n" not in str(caught.value)
    if fault == "everything":
        assert f"error: {tmp_path}/checkpoints/checkpoint-8: no space left" in heard
    else:
        assert "Traceback" not in heard  # of those that only lose touch
    found = resumable(wanted)
    assert (found and found[1]) == (2 if checkpoints == 2 else None)
    assert not (tmp_path / "snapshots/step_4").exists()
    if fault == "checkpoint":
        launch(wanted)
        names = {path.name for path in (tmp_path / "snapshots").iterdir()}
        assert names == {"step_3", "step_6"}


@pytest.mark.parametrize(
    ("codes", "code"), [([1], 1), ([1, -15], 1), ([-15, -9, 1], 137), ([-15], 143), ([-6], 134)]
)
def test_ranks_that_torchrun_ended_are_not_the_reason(codes: list[int], code: int) -> None:
    assert _exit_code(codes) == code
