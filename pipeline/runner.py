"""Runs the stages in order: skips what is done, goes on with what is half done.

A stage's record (`pipeline.records`) says what decides its results; its key is the hash of that.
`done.json` carries the record and is written last, so a stage counts as done exactly if all of it
is there and made from the same things. `started.json` carries the record of work that has begun:
with the same key the stage goes on, with another one the old folder is moved to `stale/`, never
deleted, and not without being asked for if it took long.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from pipeline import progress, provenance, records
from pipeline.arguments import check_keys, check_spelling, split
from pipeline.artifacts import hash_json, read_own, write_json, write_text
from pipeline.checks import check, check_shared
from pipeline.config import STAGES, PipelineConfig
from pipeline.errors import PipelineError
from pipeline.faults import STDOUT, naming
from pipeline.quoting import literal
from pipeline.settings import deciding
from pipeline.stages.base import Context, Stage
from pipeline.tracking import Tracker
from pipeline.trajectory.share import Share


def run(raw: DictConfig) -> None:
    """Run (or, with dry_run, plan) the stages that the configuration names.

    Raises:
        PipelineError: something the user can mend; found before anything costly starts where
            it can be.
    """
    check_spelling(_arguments())
    config = cast(PipelineConfig, OmegaConf.to_object(raw))
    check_keys(raw)
    _expand_home(config)
    check(config)
    share = Share.from_environment()
    if share.world > 1:
        check_shared(config, share.world, _dir_given() and _mode() == RunMode.RUN)
    run_dir = _run_dir(config)
    config.run.dir = str(run_dir)
    values = asdict(config)
    tracker = Tracker(run_dir, config.name, values, config.tracking)
    context = Context(config, run_dir, tracker, share)
    stages = [(name, records.load_stage(name)) for name in STAGES if name in config.stages]
    plans = _plan(context, stages)
    if share.rank > 0:
        if not config.dry_run:
            _help(context, stages)
        return
    if config.dry_run:
        _say(f"dry run of {config.name} in {run_dir} (nothing is written)")
        for name, state, text in plans:
            _say(f"  {name:<14} {state:<7} {text}")
        return
    with _locked(run_dir):
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(_literal(values))))
        _say(f"{config.name}: {run_dir}")
        try:
            for name, stage in stages:
                _run_stage(context, name, stage)
        finally:
            tracker.finish()
    page = run_dir / "report" / "index.html"
    _say(f"report: {page}" if page.exists() else f"done: {run_dir}")


def _plan(context: Context, stages: list[tuple[str, Stage]]) -> list[tuple[str, str, str]]:
    """(stage, state as of `records.state`, words) of every stage; each checks what is cheap.

    Raises:
        PipelineError: a mistake, or work that would be lost.
    """
    plans = []
    keys: dict[str, str] = {}  # as the stages will have them
    why: dict[str, list[str]] = {}  # stages are stale
    ahead: set[str] = set()
    for name, stage in stages:
        missing = [s for s in stage.needs(context) if s not in keys and not context.is_done(s)]
        if missing:
            raise PipelineError(
                f"{name} needs {missing[0]}, which is not done in {context.run_dir}; "
                f"add {missing[0]} to stages"
            )
        words = stage.plan(context)
        wanted = records.record(context, name, keys)
        keys[name] = wanted.key
        state = records.state(context, wanted)
        if state == "stale":
            why[name] = records.check_loss(context, wanted, why)
        if state == "done" and ahead.intersection(stage.needs(context)):
            state = "run"
        if state != "done":
            ahead.add(name)
        plans.append((name, state, words))
    return plans


def _run_stage(context: Context, name: str, stage: Stage) -> None:
    record = records.record(context, name)
    state = records.state(context, record)
    if state == "done":
        _log_summary(context, name)  # a kill may have come between done.json and this
        _say(f"[{name}] done already, skipped")
        return
    if state == "stale" and not stage.REUSES:
        aside = records.set_aside(context, name)
        _say(f"[{name}] was made with other settings; kept in {aside}")
    if state != "resume":
        context.tracker.begin(name)
    records.begin(context, record, resumed=state == "resume")
    _say(f"[{name}] {'goes on' if state == 'resume' else 'starts'}: {stage.plan(context)}")
    start = time.monotonic()
    summary = stage.run(context)
    seconds = time.monotonic() - start
    write_json(
        context.stage_dir(name) / "done.json",
        {
            **record.to_json(),
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "summary": summary,
            **provenance.collect(),
        },
    )
    _log_summary(context, name)
    words = ", ".join(f"{key} {_short(value)}" for key, value in summary.items())
    _say(f"[{name}] done in {seconds:.1f} s" + (f": {words}" if words else ""))


def _log_summary(context: Context, name: str) -> None:
    done = read_own(context.stage_dir(name) / "done.json")
    numbers = {k: v for k, v in done["summary"].items() if isinstance(v, int | float)}
    context.tracker.summary(name, {"seconds": done["seconds"], **numbers})


def _help(context: Context, stages: list[tuple[str, Stage]]) -> None:
    """What a process beside the first does: its share of the files, and no word of its own."""
    progress.silence()
    for name, stage in stages:
        if records.state(context, records.record(context, name)) != "done":
            stage.run(context)


def _run_dir(config: PipelineConfig) -> Path:
    """Where this run lives: as given, or the newest run of the same configuration, or a new one."""
    hydra = HydraConfig.get()
    if _dir_given():
        return Path(config.run.dir).resolve()
    if _mode() == RunMode.MULTIRUN:
        return Path(hydra.sweep.dir, hydra.sweep.subdir).resolve()
    wanted = _identity(asdict(config))
    for folder in sorted(Path("outputs", config.name).glob("*/config.yaml"), reverse=True):
        stored = _stored(folder)
        if isinstance(stored, dict) and _identity(stored) == wanted:
            return folder.parent.resolve()
    return Path(config.run.dir).resolve()


def _stored(path: Path) -> Any:
    """The content of a config.yaml."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"{path}: not valid YAML ({reason}); correct or remove it") from None


def _literal(value: Any) -> Any:
    """Plain values as OmegaConf reads them back: `${` in a text is no reference any more."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return literal(value) if isinstance(value, str) else value


def _expand_home(config: PipelineConfig) -> None:
    """`~` in a path: a shell leaves it as it is behind a `=`."""
    sections = ((config.run, ("dir", "cache")), (config.model, ("path",)))
    for section, keys in (*sections, (config.snapshot, ("source", "base"))):
        for key in keys:
            if getattr(section, key) is not None:
                setattr(section, key, os.path.expanduser(getattr(section, key)))  # noqa: PTH111
    for paths in (config.snapshot.checkpoints, config.evaluate.models):
        for name, path in paths.items() if isinstance(paths, dict) else ():
            if isinstance(path, str):
                paths[name] = os.path.expanduser(path)  # noqa: PTH111


def _dir_given() -> bool:
    given = (split(argument) for argument in _arguments())
    return any(pair is not None and pair[0] == "run.dir" for pair in given)


def _arguments() -> list[str]:
    """The overrides as they were typed: a reference in one of them is not Hydra's to resolve."""
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(typed, list)
    return typed


def _mode() -> RunMode | None:
    return HydraConfig.get().mode


def _identity(values: dict[Any, Any]) -> str:
    """What makes two runs the same: what decides their results, wherever and whichever stages."""
    apart = ("run", "stages", "dry_run", "tracking")
    return hash_json(deciding(values, [key for key in values if key not in apart], places=True))


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """Two processes in one run directory would write over each other."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as file:
        try:
            with naming(run_dir / ".lock"):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PipelineError(
                f"{run_dir}: another pipeline works here; wait for it or choose another run.dir"
            ) from None
        yield


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(line: str) -> None:
    with naming(STDOUT):
        print(line, flush=True)
