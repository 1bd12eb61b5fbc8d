"""Runs the stages in order: skips what is done, resumes what is half done.

A stage's record (`pipeline.records`) says what decides its results; its key is the hash of that.
`done.json` carries the record and is written last, so a stage counts as done exactly if all of it
is there and made from the same things. `started.json` carries the record of work that has begun:
with the same key the stage resumes, with another one the old folder is moved to `stale/`, never
deleted, and not without being asked for if it took long.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pipeline import parts, progress, provenance, records, run_dirs
from pipeline.arguments import check_keys, check_methods, check_spelling
from pipeline.artifacts import read_own, write_json, write_text
from pipeline.checks import check
from pipeline.config import STAGES, PipelineConfig
from pipeline.errors import PipelineError
from pipeline.faults import STDOUT, naming
from pipeline.hardware import give_back_memory
from pipeline.quoting import literal
from pipeline.records import Record
from pipeline.sharing import Store
from pipeline.stages.base import DONE, RESUME, Context, Drawing, Stage
from pipeline.status.writer import Status
from pipeline.tracking import Tracker
from pipeline.waiting import Waiting

_BUSY = "{}: another process works on this job; waits for its end"


def run(raw: DictConfig) -> float | None:
    """Run (or, with dry_run, plan) the stages that the configuration names.

    Returns:
        What a search over jobs should make large: avg@k of the best prediction on validation
        problems, never on test; None where nothing was predicted or evaluated.

    Raises:
        PipelineError: something the user can fix; found before anything costly starts where
            it can be.
    """
    check_spelling(run_dirs.typed())
    config = cast(PipelineConfig, OmegaConf.to_object(raw))
    check_keys(raw)
    check_methods(run_dirs.typed(), bool(config.extrapolations))
    run_dirs.expand_home(config)
    check(config)
    share = parts.share_of(config, run_dirs.given() and not run_dirs.in_sweep())
    run_dir = run_dirs.find(config)
    config.run.dir = str(run_dir)
    values = asdict(config)
    names = [name for name in STAGES if name in config.stages]
    totals = {"sft_train": config.sft_train.steps, "rl_train": config.rl_train.steps}
    status = Status(run_dir, config.name, names, totals, run_dirs.typed())
    tracker = Tracker(run_dir, config.name, values, config.tracking, status.step)
    work = _Work(Context(config, run_dir, tracker, share), status, run_dirs.store(config, run_dir))
    part = None if config.run.part is None else parts.parse(config.run.part)
    stages = [(name, records.load_stage(name)) for name in names]
    if config.dry_run:
        plans = _plan(work.context, stages, work.store)
        if share.rank == 0:
            _say(f"dry run of {config.name} in {run_dir} (nothing is written)")
            for name, state, text in plans:
                _say(f"  {name:<14} {state:<7} {text}")
    elif share.rank > 0:
        _plan(work.context, stages)
        _help(work.context, stages)
    elif part is not None:
        _take_part(work, stages, values, part)
    else:
        _run(work, stages, values)
        return _worth(work.context)
    return None


@dataclass(frozen=True)
class _Work:
    """What running a stage takes beside the stage; `store`: where it may be shared."""

    context: Context
    status: Status
    store: Store | None


def _take_part(
    work: _Work, stages: list[tuple[str, Stage]], values: dict[str, Any], part: parts.Part
) -> None:
    """Draw one part of an evaluation; whoever is through last runs the stages on what is there."""
    context, run_dir = work.context, work.context.run_dir
    identity = run_dirs.identity(values)
    names = [name for name, _ in stages if name in parts.DRAWING]
    told = run_dirs.typed()
    with (
        Status(run_dir, context.config.name, names, {}, told, part.file, identity) as status,
        run_dirs.locked(run_dir, lambda: _say(_BUSY.format(run_dir)), shared=True),
    ):
        _say(f"{context.config.name}: {run_dir}, {part}")
        plans = _plan(context, stages)
        for (name, _), (_, state, _) in zip(stages, plans, strict=True):
            if name in parts.DRAWING and state != DONE:
                status.stage(name)
                _draw_part(context, name, part)
    if all(state == DONE for _, state, _ in plans):
        parts.forget(run_dir, part)  # no other part will come, and its word would be the run's last
        _say(f"{part}: nothing is missing; all stages are done already")
        return
    if not parts.all_done(run_dir, part.count, identity):
        _say(f"{part} is done; the last one to be through scores them all")
        return
    values["run"]["part"] = None
    try:
        with parts.finishing(run_dir):
            _run(work, stages, values)
    except parts.Busy as other:
        _say(f"{part} is done; {other} scores them all")


def _draw_part(context: Context, name: str, part: parts.Part) -> None:
    from pipeline.inference.parallel import run_part

    with parts.preparing(context.run_dir, lambda owner: None):
        works = cast(Drawing, records.load_stage(name)).works(context)
    engines = context.engine.replicas
    added = sum(run_part(work, part.index, part.count, engines) for work in works)
    _say(f"[{name}] {part}: {added} generations")


def _run(work: _Work, stages: list[tuple[str, Stage]], values: dict[str, Any]) -> None:
    context, run_dir = work.context, work.context.run_dir
    sweep = run_dirs.in_sweep()
    with ExitStack() as opened:
        if sweep:  # its folder is there already, and says what became of the job
            opened.enter_context(run_dirs.locked(run_dir, lambda: _say(_BUSY.format(run_dir))))
            opened.enter_context(work.status)
        if work.store is not None and run_dir.exists():
            _adopt(context, stages, work.store)
        _plan(context, stages)
        if not sweep:
            opened.enter_context(run_dirs.locked(run_dir))
            opened.enter_context(work.status)
        text = OmegaConf.to_yaml(OmegaConf.create(_literal(values)))
        write_text(run_dir / "config.yaml", text)
        _say(f"{context.config.name}: {run_dir}")
        opened.callback(context.tracker.finish)
        for name, stage in stages:
            _run_stage(work, name, stage)
    page = run_dir / "report" / "index.html"
    _say(f"report: {page}" if page.exists() else f"done: {run_dir}")


def _worth(context: Context) -> float | None:
    path = context.stage_dir("evaluate") / "scores.json"
    if "evaluate" not in context.config.stages or not path.exists():
        return None
    chosen = read_own(path, "chosen")["chosen"].values()
    return max((float(choice["validation avg@k"]) for choice in chosen), default=None)


def _adopt(context: Context, stages: list[tuple[str, Stage]], store: Store) -> None:
    """Link what others have made or are making, as far as the stages before it are done."""
    for name, stage in stages:
        if not all(context.is_done(need) for need in stage.needs(context)):
            return
        wanted = records.record(context, name)
        store.adopt(context, wanted)
        if records.state(context, wanted) != DONE:
            return


def _plan(
    context: Context, stages: list[tuple[str, Stage]], store: Store | None = None
) -> list[tuple[str, str, str]]:
    """(stage, state as of `records.state`, words) of every stage; each checks what is cheap.

    Args:
        store: what this run would find there is "shared".

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
        if state == "run" and store is not None and store.has(wanted):
            state = "shared"
        plans.append((name, state, words))
    return plans


def _run_stage(work: _Work, name: str, stage: Stage) -> None:
    context, store = work.context, work.store
    wanted = records.record(context, name)
    state = records.state(context, wanted)
    if state == DONE:
        _log_summary(context, name)  # a kill may have come between done.json and this
        _say(f"[{name}] done already, skipped")
        return
    if state == "stale" and not stage.REUSES:
        aside = records.set_aside(context, name)
        _say(f"[{name}] was made with other settings; kept in {aside}")
        state = "run"
    if store is None or not store.takes(context, name):
        _make(work, stage, wanted, state)
        return
    waiting = Waiting(work.status, name, _say)
    with closing(waiting), store.prepared(context, wanted, waiting) as state:
        waiting.close()
        if state != DONE:
            _make(work, stage, wanted, state)
            return
    _log_summary(context, name)
    _say(f"[{name}] shared, made already: {context.stage_dir(name)}")


def _make(work: _Work, stage: Stage, wanted: Record, state: str) -> None:
    context, name = work.context, wanted.stage
    work.status.stage(name)
    if state != RESUME:
        context.tracker.begin(name)
    records.begin(context, wanted, resumed=state == RESUME)
    _say(f"[{name}] {'resumes' if state == RESUME else 'starts'}: {stage.plan(context)}")
    start = time.monotonic()
    summary = stage.run(context)
    give_back_memory()
    seconds = time.monotonic() - start
    write_json(
        context.stage_dir(name) / "done.json",
        {
            **wanted.to_json(),
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


def _literal(value: Any) -> Any:
    """Plain values as OmegaConf reads them back: `${` in a text is no reference any more."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return literal(value) if isinstance(value, str) else value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(line: str) -> None:
    with naming(STDOUT):
        print(line, flush=True)
