"""Faults caught: parts that cannot meet, a stage that no part can do, and a run that is taken for
whole because parts of other settings were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.parts import Busy, Part, all_done, finishing, parse, preparing, share_of
from pipeline.trajectory.share import Share
from tests.test_configs import composed

STAGES = "stages=[linear_probe,logit_extrap,evaluate]"


@pytest.mark.parametrize(
    "value", ["", "1", "1/", "/2", "2/2", "-1/2", "0/0", "1/2/3", "a/b", "1.0/2"]
)
def test_what_is_no_part(value: str) -> None:
    with pytest.raises(PipelineError, match=r"run\.part=.*INDEX/COUNT"):
        parse(value)
    assert parse("3/4") == Part(3, 4)


@pytest.fixture
def four_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As srun tells the third of four tasks."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")


@pytest.mark.usefixtures("four_tasks")
def test_tasks_of_a_step_take_parts_of_an_evaluation() -> None:
    config = composed("+experiment=tiny", STAGES)
    assert share_of(config, alone=True) == Share()
    assert config.run.part == "2/4"
    config = composed("+experiment=tiny", "stages=[weight_extrap]")
    assert share_of(config, alone=True) == Share(2, 4)
    assert config.run.part is None
    for stages in ("rl_train,evaluate", "linear_probe", "snapshot,evaluate"):
        with pytest.raises(PipelineError, match="runs in one process"):
            share_of(composed("+experiment=tiny", f"stages=[{stages}]"), alone=True)


def test_parts_must_be_able_to_meet() -> None:
    given = ["+experiment=tiny", "run.part=0/2"]
    with pytest.raises(PipelineError, match="sft_train is not done in parts"):
        share_of(composed(*given), alone=True)
    with pytest.raises(PipelineError, match="linear_probe is not done in parts"):
        share_of(composed(*given, "stages=[linear_probe]"), alone=True)
    with pytest.raises(PipelineError, match=r"meet in its run\.dir"):
        share_of(composed(*given, STAGES), alone=False)
    with pytest.raises(PipelineError, match=r"meet in its run\.dir"):
        share_of(composed(*given, STAGES, "run.shared=x"), alone=True)


def test_all_parts_of_the_same_settings_must_be_through(tmp_path: Path) -> None:
    def say(index: int, state: str, of: str, count: int = 2) -> None:
        path = tmp_path / Part(index, count).file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"state": state, "of": of}))

    assert not all_done(tmp_path, 2, "a")
    say(0, "done", "a")
    assert not all_done(tmp_path, 2, "a")
    for state, of in (("runs", "a"), ("failed", "a"), ("done", "b")):
        say(1, state, of)
        assert not all_done(tmp_path, 2, "a")
    say(1, "done", "a", count=3)
    assert not all_done(tmp_path, 2, "a")
    say(1, "done", "a")
    assert all_done(tmp_path, 2, "a")


def test_one_brings_them_together(tmp_path: Path) -> None:
    """Two that are through at the same moment: the second one goes, instead of waiting with its
    GPUs; what is left behind by one that failed does not keep the next one out."""
    with preparing(tmp_path, lambda owner: pytest.fail("nobody is there")):
        pass
    with finishing(tmp_path):
        with pytest.raises(Busy), finishing(tmp_path):
            pass
        assert (tmp_path / ".parts").exists()
    assert not (tmp_path / ".parts").exists()
    with pytest.raises(PipelineError, match="full"), finishing(tmp_path):
        raise PipelineError("the disk is full")
    with finishing(tmp_path):
        pass
