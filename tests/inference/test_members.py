"""Mixtures of any models on the HF engine, against sums of transformers' own logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import PipelineError
from pipeline.inference.interface import Sampling
from pipeline.inference.open import open_engine
from pipeline.inference.parallel import Candidate, coefficients
from pipeline.serve import build, parse
from tests.inference.pico import ARCHITECTURES, prompts_of, save_model, save_tokenizer

GREEDY = Sampling(temperature=0, max_tokens=12)


def larger(folder: Path, vocabulary: int = 32) -> Path:
    """A model of another architecture, depth and width than the pico ones, with their tokens."""
    config_class, model_class = ARCHITECTURES["llama"]
    torch.manual_seed(17)
    model = model_class(
        config_class(
            vocab_size=vocabulary,
            hidden_size=96,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            initializer_range=0.12,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def summed(
    folders: Sequence[Path], factors: Sequence[float], tokens: Sequence[int]
) -> torch.Tensor:
    """Σ c_i l_i over a text, by hand: fp64 [tokens, vocabulary]."""
    total = torch.zeros(())
    for folder, factor in zip(folders, factors, strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        total = total + factor * model(torch.tensor([list(tokens)])).logits[0].detach().double()
    return total


@pytest.mark.parametrize("case", ["three of a size", "a small pair on a larger model"])
def test_greedy_and_scores_are_those_of_the_sum(
    case: str, first: Path, second: Path, tmp_path: Path
) -> None:
    """A member left out, counted twice or with another's coefficient; a cache of another's size;
    padding that is right for one size only (the prompts differ in length, and rows join late)."""
    steering = case.startswith("a small")
    third = larger(tmp_path / "third") if steering else save_model(tmp_path / "third", seed=9)
    folders = [third, first, second]
    factors = [1.0, -0.7, 0.7] if steering else [-0.6, 0.4, 1.3]
    engine = open_engine(
        "hf", third, first, second, coefficients=factors, batch_size=4, dtype="float32"
    )
    prompts = prompts_of(9)
    made = sorted(engine.generate(prompts, GREEDY), key=lambda g: g.prompt_index)
    responses = [generation.token_ids for generation in made]
    scores = engine.score(prompts, responses)
    for prompt, response, row in zip(prompts, responses, scores, strict=True):
        mixed = summed(folders, factors, [*prompt, *response])[len(prompt) - 1 : -1]
        assert mixed.argmax(-1).tolist() == list(response)
        wanted = mixed.log_softmax(-1)[torch.arange(len(response)), list(response)]
        torch.testing.assert_close(torch.tensor(row).double(), wanted, atol=2e-5, rtol=0)


def test_coefficients_change_and_zeros_leave_a_single_model(first: Path, second: Path) -> None:
    """Coefficients that are set and not used, or members in another order."""
    engine = open_engine("hf", first, second, first, coefficients=[0.2, 0.3, 0.5])
    prompts = prompts_of(4)
    for factors, alone in (([0, 1, 0], second), ([1, 0, 0], first)):
        engine.set_coefficients(factors)
        wanted = open_engine("hf", alone).score(prompts, prompts)
        assert engine.score(prompts, prompts) == wanted
    with pytest.raises(PipelineError, match="a finite one for each of the engine's 3"):
        engine.set_coefficients([1, 2])
    with pytest.raises(PipelineError, match="a finite one"):
        engine.set_coefficients([1, 2, float("nan")])
    with pytest.raises(PipelineError, match="whose is 1"):
        open_engine("hf", first).set_coefficients([2.0])


def test_two_members_may_draft_and_three_may_not(first: Path, second: Path) -> None:
    """A draft that is judged against another mixture than the one asked for."""
    made = []
    for length in (0, 3):
        engine = open_engine("hf", first, second, coefficients=[0.7, 0.6], speculative=length)
        found = sorted(engine.generate(prompts_of(3), GREEDY), key=lambda g: g.prompt_index)
        made.append([generation.token_ids for generation in found])
    assert made[0] == made[1]
    with pytest.raises(PipelineError, match="two models drafts"):
        open_engine("hf", first, second, first, coefficients=[1, 1, 1], speculative=3)


def test_another_vocabulary_is_refused(first: Path, second: Path, tmp_path: Path) -> None:
    """Logits of different tokens added: of another number, or of the same number in another order,
    which no shape tells."""
    wide = larger(tmp_path / "wide", vocabulary=40)
    with pytest.raises(PipelineError, match=r"wide: a vocabulary of 40 tokens, and .* has 32"):
        open_engine("hf", first, wide, coefficients=[1, 1])
    other = larger(tmp_path / "other")
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(PipelineError, match=r"other: its tokenizer is not that of .*'b' is 15 h"):
        open_engine("hf", first, second, other, coefficients=[1, 1, 1])


def test_a_candidate_knows_its_coefficients() -> None:
    """α that is taken for a factor of the sum; a member's factor of another member."""
    members = [{"model": "a", "coefficient": 2}, {"model": "b", "coefficient": -1.0}]
    assert coefficients(Candidate("m", "mixture", "f", None, {"members": members})) == [2.0, -1.0]
    assert coefficients(Candidate("l", "logit", "f", None, {"alpha": 1.5})) == [-0.5, 1.5]


def test_served_members_reach_vllm(first: Path, second: Path, tmp_path: Path) -> None:
    """A coefficient of another member, or models whose sizes vLLM would take for equal."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    call = [str(first), "--coefficient", "0.5", "--member", str(second), "-1"]
    command, _ = build(*parse([*call, "--member", str(first), "1.5", "--port", "81"]))
    overrides = json.loads(command[command.index("--hf-overrides") + 1])["mixture"]
    assert overrides["coefficients"] == [0.5, -1.0, 1.5]
    assert overrides["folders"] == [str(first), str(second), str(first)]
    assert command[command.index("--served-model-name") + 1] == "mixture"
    large = larger(tmp_path / "large")
    for arguments, part in (
        ([*call, "--second", str(second)], "--second and --alpha, or"),
        ([str(first), "--member", str(second), "x"], "x is not a number"),
        ([str(first), "--member", str(large), "1"], "engine=hf"),
    ):
        with pytest.raises(PipelineError, match=part):
            build(*parse(arguments))


def test_vllm_refuses_what_shapes_do_not_tell(first: Path, tmp_path: Path) -> None:
    """Members that vLLM would build by the first one's configuration: another base of rotations
    computes something else with the same tensors; a key of a trainer's own does not."""
    from pipeline.inference.vllm.plugin import mixture_overrides

    same = save_model(tmp_path / "same", seed=3)
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | {"trained_by": "me"}))
    assert mixture_overrides([first, same], [1, 1])["mixture"]["folders"][1] == str(same)
    turned = config | {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    (same / "config.json").write_text(json.dumps(turned))
    with pytest.raises(PipelineError, match=r"config\.json has rope_parameters"):
        mixture_overrides([first, same], [1, 1])
    with pytest.raises(PipelineError, match="9 models in a mixture: vLLM takes 8"):
        mixture_overrides([first] * 9, [1] * 9)
