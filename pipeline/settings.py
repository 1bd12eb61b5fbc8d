"""Which values of a configuration decide a result, so that work is thrown away for them alone.

A field that is declared `idle` (`pipeline.config`) decides nothing: it names something, says
where or how fast a thing is done, or in which order the same numbers are added up. Two results
whose other values agree are the same result.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.fields import ADDED, IDLE

CONSTANT_SCHEDULES = ("constant", "constant_with_warmup")  # whatever number of steps they last
IDLE_OPTIONS = ("task.options.workers",)  # of the open maps, whose fields no schema declares
PATHS = ("model.path", "task.dataset.path")  # of what is known by its content where it is local
_EVAL_TASK = re.compile(r"^eval_tasks\.[^.]+\.")


def deciding(
    values: Mapping[str, Any], sections: Iterable[str], places: bool = False
) -> dict[str, Any]:
    """The values in `sections` that decide a result, by dotted key.

    How many steps RL takes decides nothing where its schedule does not depend on it: a shorter run
    is the beginning of a longer one.

    Args:
        values: a configuration as plain nested maps, or the part of one that has the sections.
        sections: dotted keys, each with all that is below it.
        places: whether to keep local paths, whose content the caller does not look at.
    """
    wanted = tuple(sections)
    found = {}
    for key, value in _leaves(values, ""):
        plain = _EVAL_TASK.sub("task.", key)
        local = plain in PATHS and value is not None and Path(str(value)).expanduser().exists()
        if not any(key == section or key.startswith(f"{section}.") for section in wanted):
            continue
        if plain in _IDLE_KEYS or (local and not places):
            continue
        if plain in _ADDED_KEYS and value == _ADDED_KEYS[plain]:
            continue
        found[key] = value
    if not places and values.get("algorithm", {}).get("lr_schedule") in CONSTANT_SCHEDULES:
        found.pop("rl_train.steps", None)
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two results of `deciding`, as "key: old → new"."""
    return [
        f"{key}: {_shown(old, key)} → {_shown(new, key)}"
        for key in sorted({*old, *new})
        if _shown(old, key) != _shown(new, key)
    ]


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    value = values[key]
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", repr(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            # 1 and 1.0 are the same value of an option that no schema types
            whole = isinstance(value, float) and value.is_integer()
            yield f"{prefix}{name}", int(value) if whole else value


def _marked(schema: type, mark: str, prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, default) of the fields with `mark` in their metadata."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key = prefix + field.name
        if field.metadata.get(mark):
            made = field.default_factory
            yield key, field.default if made is dataclasses.MISSING else made()
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from _marked(kind, mark, f"{key}.")


_IDLE_KEYS = frozenset({*dict(_marked(PipelineConfig, IDLE, "")), *IDLE_OPTIONS})
_ADDED_KEYS = dict(_marked(PipelineConfig, ADDED, ""))
