"""What a stage's results were made from, how that compares with what is asked for now, and what
would be lost if they were made again.

`started.json` carries the record of work that has begun, `done.json` that of finished work, with
the values in it readable: so a run can say which of them has changed.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.artifacts import hash_json, read_own, write_json
from pipeline.errors import PipelineError
from pipeline.fields import check_fields
from pipeline.settings import changes, deciding
from pipeline.stages.base import DONE, RESUME, Context, Stage
from pipeline.status.show import duration

PRECIOUS = 60.0  # seconds of work that are not thrown away unasked
_SHOWN = 4  # changes that a message names
_TYPES = {
    "key": str,
    "since": float,
    **dict.fromkeys(("settings", "inputs", "needs"), dict[str, Any]),
}


@dataclass(frozen=True)
class Record:
    """What decides a stage's results.

    settings: values of the configuration, by dotted key; inputs: hashes of what is read from
    outside the run directory, by what it is; needs: keys of the stages that it builds on.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    needs: Mapping[str, str]

    @property
    def key(self) -> str:
        return hash_json(asdict(self))

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, **asdict(self)}


def load_stage(name: str) -> Stage:
    return cast(Stage, importlib.import_module(f"pipeline.stages.{name}"))


def record(context: Context, name: str, ahead: Mapping[str, str] | None = None) -> Record:
    """What would decide the results of a stage that runs now.

    Args:
        ahead: keys of stages that will have run before it; of the others, done.json says them.
    """
    stage = load_stage(name)
    keys = {
        need: (ahead or {}).get(need) or context.done_key(need) for need in stage.needs(context)
    }
    settings = deciding(asdict(context.config), stage.SECTIONS)
    inputs = {what: hash_json(value)[:16] for what, value in stage.inputs(context).items()}
    return Record(name, settings, inputs, keys)


def state(context: Context, wanted: Record) -> str:
    """DONE, RESUME (begun from the same things), "stale" (from others, or not to be continued), or
    "run" (not begun).
    """
    name = wanted.stage
    made = _made(context.stage_dir(name))
    if made is None:
        return "run"
    if made["key"] != wanted.key:
        return "stale"
    found = load_stage(name).standing(context)
    if found == DONE:
        return DONE if context.is_done(name) and context.done_key(name) == wanted.key else RESUME
    return RESUME if found == RESUME else "stale"


def begin(context: Context, wanted: Record, resumed: bool) -> None:
    """Note that work begins, or resumes."""
    folder = context.stage_dir(wanted.stage)
    since = (_made(folder) or {}).get("since") if resumed else None
    write_json(folder / "started.json", {**wanted.to_json(), "since": since or time.time()})
    (folder / "done.json").unlink(missing_ok=True)


def set_aside(context: Context, name: str) -> Path:
    """Move what other settings have made to stale/; returns its new folder. Of what is shared with
    other runs that is the link only."""
    number = 1
    while os.path.lexists(aside := context.run_dir / "stale" / f"{name}-{number}"):
        number += 1
    aside.parent.mkdir(exist_ok=True)
    place = context.run_dir / name
    if place.is_symlink():  # a relative one
        aside.symlink_to(os.path.relpath(context.stage_dir(name), aside.parent.resolve()))
        place.unlink()
    else:
        os.replace(place, aside)
    return aside


def check_loss(context: Context, wanted: Record, why: Mapping[str, list[str]]) -> list[str]:
    """Why a stale stage is stale; work that took long is not set aside unasked.

    Args:
        why: the same of the stages before it.

    Raises:
        PipelineError: names the values that have changed, and the ways out.
    """
    name, folder = wanted.stage, context.stage_dir(wanted.stage)
    made = _made(folder) or {}
    reasons = _reasons(context, made, wanted, why)
    if load_stage(name).REUSES or context.config.run.discard:
        return reasons
    seconds = _seconds(folder, made)
    if seconds > PRECIOUS:
        more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise PipelineError(
            f"{name}: {duration(seconds)} of work in {folder} would be set aside: "
            f"{', '.join(reasons[:_SHOWN])}{more}; put that back, choose another run.dir, or give "
            "run.discard=true to do it again"
        )
    return reasons


def _reasons(
    context: Context, made: dict[str, Any], wanted: Record, why: Mapping[str, list[str]]
) -> list[str]:
    """How what a stage was made from differs from what it would be made from now."""
    if "settings" not in made:
        return ["an earlier version made it, and did not note from what"]
    found = changes(made["settings"], wanted.settings)
    found += [f"{what} changed" for what in _differing(made["inputs"], wanted.inputs)]
    for need in _differing(made["needs"], wanted.needs):
        found += why.get(need) or [f"{need} has been made again"]
    return list(dict.fromkeys(found)) or [load_stage(wanted.stage).standing(context)]


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]


def _made(folder: Path) -> dict[str, Any] | None:
    """The record of what is in a stage's folder; None if nothing has begun there."""
    for path in (folder / "started.json", folder / "done.json"):
        if path.exists():
            made: dict[str, Any] = read_own(path, "key")
            check_fields(str(path), made, _TYPES)
            return made
    return None


def _seconds(folder: Path, made: Mapping[str, Any]) -> float:
    """How long the work in a stage's folder took, breaks between starts included."""
    done = folder / "done.json"
    if done.exists():
        alone, ended = float(read_own(done, "seconds")["seconds"]), done.stat().st_mtime
    else:
        alone, ended = 0.0, max(p.stat().st_mtime for p in folder.rglob("*") if p.is_file())
    return max(alone, ended - made.get("since", ended))
