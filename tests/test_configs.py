"""Every YAML in conf/ composes against the schema, and every experiment passes its checks."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline import config as schema
from pipeline.arguments import all_keys
from pipeline.checks import check
from pipeline.config import CONF, PipelineConfig
from pipeline.errors import PipelineError
from tests.conftest import run_pipeline

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "experiment"
)


def composed(*overrides: str) -> PipelineConfig:
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", overrides=["run.dir=outputs/test", *overrides])
    return cast(PipelineConfig, OmegaConf.to_object(raw))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    """Would catch a key that the schema does not know, or a value of the wrong type."""
    value = getattr(composed(f"{group}={option}"), group)
    keys = {"tracking": ["mode"], "task": ["name", "kind"]}
    assert option in [getattr(value, key) for key in keys.get(group, ["name"])]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_passes_its_checks(experiment: str) -> None:
    """Would catch an experiment that no longer fits the schema or contradicts itself."""
    config = composed(f"+experiment={experiment}")
    check(config)
    assert config.name == experiment


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_passes_a_dry_run(experiment: str, tmp_path: Path) -> None:
    """Would catch a plan that crashes, or a dry run that leaves files behind."""
    run_dir = tmp_path / "run"
    done = run_pipeline(f"+experiment={experiment}", "dry_run=true", f"run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    for stage in composed(f"+experiment={experiment}").stages:
        assert f"  {stage} " in done.stdout
    assert not run_dir.exists()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_says_how_to_run_it(experiment: str) -> None:
    """Would catch an experiment file without its command on top."""
    head = (CONF / "experiment" / f"{experiment}.yaml").read_text().split("\n\n")[0]
    assert f"python -m pipeline +experiment={experiment}" in head


def test_the_published_recipe_is_as_published() -> None:
    """Would catch a value of arXiv 2601.04537's recipe that drifted."""
    config = composed("+experiment=qwen_math")
    algorithm, evaluate = config.algorithm, config.evaluate
    assert config.model.path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert (algorithm.prompts_per_step, algorithm.rollouts_per_prompt) == (128, 16)
    assert (algorithm.updates_per_step, algorithm.learning_rate) == (2, 1e-6)
    assert (algorithm.epsilon, algorithm.epsilon_high) == (0.2, 0.28)
    assert (algorithm.kl_beta, algorithm.max_grad_norm, algorithm.temperature) == (0, 1, 1)
    assert (algorithm.loss_type, algorithm.lr_schedule) == ("grpo", "constant")
    assert (config.task.max_prompt_tokens, algorithm.max_response_tokens) == (2048, 16384)
    assert config.rl_train.snapshot_every == 50
    assert (evaluate.temperature, evaluate.top_p) == (0.6, 0.95)
    assert (evaluate.max_tokens, evaluate.samples_per_problem) == (32768, 64)
    assert set(config.eval_tasks) == {"aime24", "aime25", "math500"}
    assert (config.extrapolation.first, config.extrapolation.last) == (200, 1400)
    assert 1.5 in config.logit_extrap.alphas


def test_schema_keys_are_found() -> None:
    """Would catch suggestions for misspelt keys that never fire."""
    assert {"rl_train.steps", "evaluate.samples_per_problem", "stages"} <= set(all_keys())


def test_an_engine_needs_room_for_the_longest_response() -> None:
    """Would catch a limit that is found too small when the engine starts, after training."""
    composed_with = ["+experiment=qwen_math", "evaluate.max_tokens=32768"]
    check(composed(*composed_with, "engine.max_model_len=32769"))
    with pytest.raises(PipelineError, match=r"engine\.max_model_len=32768 has no room"):
        check(composed(*composed_with, "engine.max_model_len=32768"))
