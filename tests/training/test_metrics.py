"""Faults caught: a run that continues after its loss has become NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.training.metrics import MetricsCallback


@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, key: str) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    metrics = MetricsCallback(
        "rl_train", False, tmp_path / "metrics.jsonl", steps=5, updates=2, log=None
    )
    metrics.on_train_begin(args, state, control)
    logs = {"loss": 0.1, "grad_norm": 1.0, "reward": 0.5}
    state.global_step = 2
    metrics.on_log(args, state, control, logs)
    state.global_step = 4
    with pytest.raises(PipelineError, match=f"{key} is nan at step 2; lower learning_rate"):
        metrics.on_log(args, state, control, {**logs, key: float("nan")})
    metrics.on_train_end(args, state, control)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1]
