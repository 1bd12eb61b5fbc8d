"""A trained pico base model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.training.worker import run
from tests.conftest import made_once
from tests.training.pico import sft_spec


@pytest.fixture(scope="session")
def sft_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished SFT run; treat it as read-only."""
    torch.set_num_threads(1)
    return made_once(tmp_path_factory, "sft", lambda folder: run(sft_spec(folder)))


@pytest.fixture(scope="session")
def base(sft_output: Path) -> Path:
    """The model folder of that run."""
    return sft_output / "model"
