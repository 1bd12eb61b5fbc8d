"""What stages read from outside the run directory, for their keys (`Stage.inputs`): other content
makes a stage stale, the same content at another place or time does not.

A large file is hashed once: hashes.json in the run directory remembers its size and time stamp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, read_json, write_json
from pipeline.content import data_content, model_config, model_content, model_settings
from pipeline.stages.base import Context
from pipeline.tasks.task import TaskConfig

REMEMBERED = 1 << 24  # bytes from which on a hash is worth remembering

_known: dict[tuple[str, int, int], str] = {}  # several stages ask


def task_data(context: Context, tasks: Iterable[TaskConfig]) -> dict[str, Any]:
    """The content of the local data files that these tasks read, by task."""
    found = {}
    for task in tasks:
        dataset = None if task.dataset is None else asdict(task.dataset)
        content = data_content(dataset, lambda path: _hash(context, path))
        if content is not None:
            found[f"data of {task.name}"] = content
    return found


def model(context: Context, name: str | None) -> dict[str, Any]:
    """The content of a model given as a folder; a hub id is named by its revision."""
    folder = None if name is None else Path(name)
    if folder is None or not folder.is_dir():
        return {}
    return {"model": model_content(folder, lambda path: _hash(context, path))}


def settings(folders: Mapping[int, Path]) -> dict[str, str]:
    """What decides, beside the weights, how the models of a trajectory are read, by step.

    Args:
        folders: the model folder of each step. Of the lowest, on which engines start, tokenizer
            and chat template count too; of the others the config alone.
    """
    base = min(folders)
    return {
        str(step): model_settings(folder) if step == base else model_config(folder)
        for step, folder in sorted(folders.items())
    }


def recorded_settings(context: Context) -> dict[str, Any]:
    """`settings` of the recorded trajectory as they are now; where a folder has gone, as they were
    when it was recorded."""
    path = context.stage_dir("snapshot") / "trajectory.json"
    if not path.exists():
        return {}
    recorded = read_json(path)
    folders = {item["step"]: Path(item["folder"]) for item in recorded["checkpoints"]}
    if not all(folder.is_dir() for folder in folders.values()):
        return {"models": recorded.get("settings", {})}
    return {"models": settings(folders)}


def _hash(context: Context, path: Path) -> str:
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key in _known:
        return _known[key]
    if stat.st_size < REMEMBERED:
        _known[key] = hash_file(path)
        return _known[key]
    store = context.run_dir / "hashes.json"
    stored = read_json(store) if store.exists() else {}
    size, stamp, found = stored.get(key[0], (None, None, ""))
    if (size, stamp) != key[1:]:
        found = hash_file(path)
        if context.run_dir.exists() and context.share.rank == 0 and not context.config.dry_run:
            write_json(store, stored | {key[0]: [*key[1:], found]})
    _known[key] = found
    return found
