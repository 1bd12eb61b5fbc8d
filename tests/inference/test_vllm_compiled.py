"""Faults caught: a member of a mixture that runs the other one's compiled graph, from a warm store
or a cold one: with layers known by name (VLLM_USE_LAYERNAME=0) it would read the other's KV caches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from tests.conftest import ROOT
from tests.inference import compiled_mixture
from tests.inference.compiled_mixture import PROMPTS
from tests.inference.vllm_checks import run

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.vllm
if shutil.which("g++") is None:
    pytest.skip("torch's inductor needs g++ here", allow_module_level=True)


@pytest.mark.parametrize("store", ["cold", "warm"])
def test_compiled_members_stay_apart(
    first: Path, second: Path, tmp_path_factory: pytest.TempPathFactory, store: str
) -> None:
    cache = tmp_path_factory.getbasetemp() / "compiled"
    assert cache.exists() == (store == "warm")
    environment = {
        **os.environ,
        "RL_EXTRAPOLATION_CPU": "0",  # our changes leave compilation out
        "VLLM_USE_LAYERNAME": "0",
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "PYTHONPATH": str(ROOT),
    }
    del environment["CXX"]  # the other tests' engines find no compiler; this one must
    line = [sys.executable, compiled_mixture.__file__, str(first), str(second)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert cache.exists()
    reference = open_engine("hf", first, second)
    for alpha in (0.0, 1.0, 1.5):
        reference.set_coefficients([1 - alpha, alpha])
        wanted = run(reference, PROMPTS, Sampling(temperature=0, max_tokens=12))
        assert [tuple(row) for row in found[str(alpha)]] == wanted
