"""Child of test_run: samples and kills itself with SIGKILL after some responses.

python -m tests.inference.killed_run MODEL OUT AFTER
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.inference import run
from pipeline.inference.interface import Generation, Sampling
from pipeline.inference.open import open_engine
from tests.inference.pico import prompts_of

SAMPLING = Sampling(max_tokens=6, n=3, seed=2)
IDENTITY: dict[str, Any] = {"model": "base", "kind": "base", "fingerprint": "f0"}


def items() -> list[run.PromptItem]:
    """Twenty problems."""
    return [
        run.PromptItem("letters", "test", f"p{i}", tuple(prompt))
        for i, prompt in enumerate(prompts_of(20))
    ]


def main(model: Path, out: Path, after: int) -> None:
    """Sample; die after `after` responses, in the middle of writing a line."""
    engine = open_engine("hf", model, batch_size=8, threads=1)
    run.BLOCK_ROWS = 4
    whole = engine.generate

    def dying(*args: Any, **kwargs: Any) -> Iterator[Generation]:
        for count, generation in enumerate(whole(*args, **kwargs)):
            if count == after:
                with open(out, "a") as file:
                    file.write('{"task": "let')
                os.kill(os.getpid(), signal.SIGKILL)
            yield generation

    engine.generate = dying  # type: ignore[method-assign]
    run.sample_to_jsonl(engine, items(), SAMPLING, out, **IDENTITY)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
