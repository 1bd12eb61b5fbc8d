"""The OpenAI-compatible endpoint of an extrapolated model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from pipeline.serve import build, parse
from tests.inference.pico import prompts_of

pytest.importorskip("vllm", reason="vLLM is not installed")

ROOT = Path(__file__).parents[2]


def test_mistakes_are_named(first: Path, tmp_path: Path) -> None:
    """A server that dies minutes later, deep inside vLLM."""
    with pytest.raises(PipelineError, match=r"no config\.json"):
        build(*parse([str(first), "--second", str(tmp_path)]))


def test_flags_reach_vllm(first: Path, second: Path) -> None:
    """A flag of vLLM's that is swallowed, or alpha left out of the overrides."""
    known = parse([str(first), "--second", str(second), "--alpha", "2", "--port", "81"])
    command, _ = build(*known)
    assert command[-2:] == ["--port", "81"]
    assert command[command.index("--served-model-name") + 1] == "logit-2"
    assert '"coefficients": [-1.0, 2.0]' in command[command.index("--hf-overrides") + 1]


@pytest.mark.vllm
def test_served_text_is_the_extrapolated_models(first: Path, second: Path) -> None:
    """An endpoint of one of the two models, or of none."""
    openai = pytest.importorskip("openai")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.serve", str(first), "--second", str(second)]
    command += ["--alpha", "1.7", "--dtype", "float32", "--kv-cache-gib", "0.05"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "128"]
    reference = open_engine("hf", first, second, coefficients=[-0.7, 1.7])
    prompts = prompts_of(5)
    wanted = list(reference.generate(prompts, Sampling(temperature=0, max_tokens=10)))
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        said: list[str] = []
        while "Application startup complete" not in "".join(said[-1:]):
            line = server.stdout.readline()
            assert line, "".join(said[-40:])  # it ended
            said.append(line)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        for made in wanted:
            answer = client.completions.create(
                model="logit-1.7",
                prompt=prompts[made.prompt_index],
                max_tokens=10,
                temperature=0,
            )
            assert answer.choices[0].text == made.text
            assert answer.choices[0].finish_reason == made.finish_reason
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
