"""Model folders that the inference tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.inference.pico import save_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _vllm_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets a test send a function to vLLM's worker, which has no C++ compiler."""
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    patch.setenv("CXX", "no-compiler")
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The earlier checkpoint."""
    return save_model(tmp_path_factory.mktemp("models") / "first", seed=1)


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The later checkpoint."""
    return save_model(tmp_path_factory.mktemp("models") / "second", seed=2)
