"""What must hold between configuration values, checked before anything is imported or run."""

from __future__ import annotations

from typing import Any

from pipeline.config import (
    DTYPES,
    SHARED_STAGES,
    STAGES,
    PipelineConfig,
)
from pipeline.errors import PipelineError
from pipeline.fields import check_fields
from pipeline.limits import check_values
from pipeline.training.check import check_rl, check_sft
from pipeline.training.check_algorithm import one_of

# a model that is predicted, among evaluate.models
PREDICTION = {"method": str, "target": int, "options": dict[str, Any], "hold": list[str]}


def check(config: PipelineConfig) -> None:
    """Refuse values that cannot work together.

    Raises:
        PipelineError: names the key and the values it may take.
    """
    check_values(config)
    for stage in config.stages:
        one_of("stages", stage, STAGES)
    if not config.stages:
        raise PipelineError(f"stages is empty; give some of {', '.join(STAGES)}")
    one_of("tracking.mode", config.tracking.mode, ("online", "offline", "disabled"))
    one_of("engine.name", config.engine.name, ("hf", "vllm"))
    one_of("model.dtype", config.model.dtype, DTYPES)
    one_of("weight_extrap.dtype", config.weight_extrap.dtype, DTYPES)
    one_of("snapshot.only_in_base", config.snapshot.only_in_base, ("refuse", "keep"))
    _check_paths(config)
    _check_checkpoints(config.snapshot.checkpoints)
    _check_rename(config.snapshot.rename)
    _check_models(config.evaluate.models)
    _check_training(config)
    _check_extrapolation(config)
    _check_evaluation(config)


def check_shared(config: PipelineConfig, world: int, run_dir_given: bool) -> None:
    """Refuse what `world` processes of one srun or torchrun cannot do together.

    Raises:
        PipelineError: names the stage or key, and what to do instead.
    """
    for stage in config.stages:
        if stage not in SHARED_STAGES:
            raise PipelineError(
                f"stages: {stage} runs in one process, and {world} were started by srun or "
                f"torchrun; run it with one, then {world} with "
                f'"stages=[{",".join(SHARED_STAGES)}]"'
            )
    if not config.weight_extrap.write:
        raise PipelineError(
            f"weight_extrap.write=false has nothing to share among {world} processes; start one"
        )
    if not run_dir_given:
        raise PipelineError(
            f"run.dir: {world} processes were started and must be told where to meet; give run.dir"
        )


def _check_paths(config: PipelineConfig) -> None:
    """An empty path would mean the folder that one happens to be in."""
    for key, value in (
        ("name", config.name),
        ("run.dir", config.run.dir),
        ("run.cache", config.run.cache),
        ("run.shared", config.run.shared),
        ("model.path", config.model.path),
        ("snapshot.source", config.snapshot.source),
        ("snapshot.base", config.snapshot.base),
        *_names(config),
    ):
        if value is not None and not value.strip():
            raise PipelineError(f"{key}: is empty; give a value, or null where there may be none")
    for key, value in (("name", config.name), *_names(config)):
        if "/" in value or value in (".", ".."):
            raise PipelineError(f"{key}: {value!r} names a folder, so it can hold no /")
    for key, value in _names(config):
        if value in ("base", "rl", "logit"):
            raise PipelineError(f"{key}: other models are called {value}-N; choose another")


def _names(config: PipelineConfig) -> list[tuple[str, str]]:
    """The methods' names, each with the key that gives it."""
    if not config.extrapolations:
        return [("extrapolation.name", config.extrapolation.name)]
    return [(f"extrapolations.{name}", str(name)) for name in config.extrapolations]


def _check_models(models: object) -> None:
    if models is None:
        return
    if not isinstance(models, dict):
        raise PipelineError(f"evaluate.models={models}: give {{name: model}}")
    for name, model in models.items():
        key = f"evaluate.models.{name}"
        if isinstance(model, str) and model.strip():
            continue
        if not isinstance(model, dict) or not {"method", "target"} <= set(model):
            raise PipelineError(
                f"{key}: {model!r} is no folder, no hub id and no {{method: METHOD, target: STEP}}"
            )
        unknown = [field for field in model if field not in PREDICTION]
        if unknown:
            known = ", ".join(PREDICTION)
            raise PipelineError(f"{key}.{unknown[0]}: no such key; there are {known}")
        check_fields(key, model, PREDICTION)


def _check_checkpoints(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not value:
        raise PipelineError(
            f"snapshot.checkpoints: {value!r} is no map; give {{step: folder}}, e.g. "
            '"snapshot.checkpoints={100: runs/a, 200: runs/b}"'
        )
    steps = []
    for step, folder in value.items():
        if isinstance(step, bool) or not str(step).isdecimal() or not isinstance(folder, str):
            raise PipelineError(
                f"snapshot.checkpoints: {step}: {folder} is not a whole number and a folder"
            )
        if not folder.strip():
            raise PipelineError(f"snapshot.checkpoints: {step}: names no folder")
        steps.append(int(step))
    if len(set(steps)) < len(steps):
        raise PipelineError(f"snapshot.checkpoints: a step stands twice in {list(value)}")


def _check_rename(value: object) -> None:
    if value is None:
        return
    example = 'e.g. "snapshot.rename={actor.model.: model.}"'
    if not isinstance(value, dict) or not value:
        raise PipelineError(
            f"snapshot.rename: {value!r} is no map; give {{beginning of names: new one}}, {example}"
        )
    for old, new in value.items():
        if not isinstance(old, str) or not (new is None or isinstance(new, str)) or old == new:
            raise PipelineError(
                f"snapshot.rename: {old!r}: {new!r} is not the beginning of names and what "
                f"replaces it (null leaves such tensors out), {example}"
            )


def _check_training(config: PipelineConfig) -> None:
    if "sft_train" in config.stages:
        if not config.model.architecture:
            raise PipelineError(
                f"model {config.model.name!r} has no architecture, so sft_train has nothing to "
                "build; leave sft_train out of stages or choose model=tiny"
            )
        check_sft(config)
    if "rl_train" not in config.stages:
        return
    check_rl(config)
    model = config.model
    if model.path is None and model.package is None and not model.architecture:
        raise PipelineError("model.path: missing; give a folder or a hub id to train from")
    if config.snapshot.source is not None:
        raise PipelineError(
            "snapshot.source names finished checkpoints, but stages contains rl_train; drop one"
        )


def _check_extrapolation(config: PipelineConfig) -> None:
    extrapolation = config.extrapolation
    if extrapolation.last is not None and extrapolation.last <= extrapolation.first:
        raise PipelineError(
            f"extrapolation.last: {extrapolation.last} must come after "
            f"extrapolation.first ({extrapolation.first})"
        )
    if "weight_extrap" in config.stages:
        _check_targets(config)
    if "logit_extrap" in config.stages:
        alphas = config.logit_extrap.alphas
        if not alphas:
            raise PipelineError(
                'logit_extrap.alphas: empty; give values, e.g. "logit_extrap.alphas=[1.25,1.5]"'
            )
        if len(set(alphas)) < len(alphas):
            raise PipelineError(f"logit_extrap.alphas: {alphas} must be different")
        speculative, engine = config.logit_extrap.speculative, config.engine.name
        if speculative and engine != "hf":
            raise PipelineError(
                f"logit_extrap.speculative={speculative}: 1 or more with engine=hf, else 0 "
                f"(engine={engine})"
            )


def _check_targets(config: PipelineConfig) -> None:
    targets, alphas = config.weight_extrap.targets, config.weight_extrap.alphas
    if not targets and not alphas:
        raise PipelineError(
            'weight_extrap.targets: empty; give steps, e.g. "weight_extrap.targets=[900,1100]"'
        )
    if len(set(targets)) < len(targets):
        raise PipelineError(f"weight_extrap.targets: a step stands twice in {targets}")
    for target in targets:
        if target <= config.extrapolation.first:
            raise PipelineError(
                f"weight_extrap.targets: {target} is not after "
                f"extrapolation.first ({config.extrapolation.first})"
            )


def _check_evaluation(config: PipelineConfig) -> None:
    if not {"evaluate", "logit_extrap"} & set(config.stages):
        return
    evaluate = config.evaluate
    for lower in evaluate.control_temperatures or []:
        if not 0 < lower < evaluate.temperature:
            raise PipelineError(
                f"evaluate.control_temperatures: {lower} is not between 0 (greedy decoding is "
                f"always tried) and evaluate.temperature ({evaluate.temperature})"
            )
    room = config.engine.max_model_len
    if config.engine.name == "vllm" and room is not None and room <= evaluate.max_tokens:
        raise PipelineError(
            f"engine.max_model_len={room} has no room for a prompt and evaluate.max_tokens="
            f"{evaluate.max_tokens}; raise it or lower evaluate.max_tokens"
        )
    for k in evaluate.pass_k:
        if not 1 <= k <= evaluate.samples_per_problem:
            raise PipelineError(
                f"evaluate.pass_k: {k} is not between 1 and "
                f"evaluate.samples_per_problem ({evaluate.samples_per_problem})"
            )
