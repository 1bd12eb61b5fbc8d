"""A mixture in a compiled vLLM on the CPU: a program of `test_vllm_compiled`.

    python compiled_mixture.py FIRST SECOND [--stored]

Prints, as JSON, the greedy tokens of a few prompts at α = 0, 1 and 1.5. With `--stored` the
members may be loaded from vLLM's store of whole compiled graphs, as in an ordinary model.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

PROMPTS = [[4, 5, 6], [7, 8, 9, 10], [11, 4]]


def main() -> None:
    first, second = (Path(folder) for folder in sys.argv[1:3])
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import vllm

    import pipeline.inference.vllm.mixture as module
    from pipeline.inference.vllm.plugin import mixture_overrides, register

    register()
    mixture: Any = module
    if "--stored" in sys.argv:
        build = mixture.init_vllm_registered_model

        def stored(*arguments: Any, **options: Any) -> Any:
            os.environ["VLLM_USE_AOT_COMPILE"] = "1"
            return build(*arguments, **options)

        mixture.init_vllm_registered_model = stored
    llm: Any = vllm.LLM(
        str(first),
        dtype="float32",
        enforce_eager=False,
        max_model_len=64,
        max_num_seqs=4,
        kv_cache_memory_bytes=50_000_000,
        hf_overrides=mixture_overrides([first, second], [1.0, 0.0]),
    )
    params = vllm.SamplingParams(temperature=0, max_tokens=12, detokenize=False)
    worker: Any = llm.llm_engine.model_executor.driver_worker
    found = {}
    for alpha in (0.0, 1.0, 1.5):
        worker.model_runner.get_model().coefficients = [1.0 - alpha, alpha]
        made = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params, use_tqdm=False)
        found[str(alpha)] = [list(one.outputs[0].token_ids) for one in made]
    print(json.dumps(found), flush=True)
    os._exit(0)  # vLLM's own end takes seconds


if __name__ == "__main__":
    main()
