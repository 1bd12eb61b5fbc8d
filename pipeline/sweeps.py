"""A sweep that is started again with the same command continues in its folder.

Hydra names a sweep's folder after the time. This callback remembers, beside these folders, which
one a command has got: the first process that comes sets a link, and a link is set once only, so
two that start together agree as well. It also notes what the jobs are, for whoever asks how far
the sweep is (`pipeline.status`).
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pipeline.artifacts import hash_json, write_json
from pipeline.quoting import quoted
from pipeline.run_dirs import APART
from pipeline.status.sweep import FILE

COMMANDS = ".commands"  # beside the sweeps: {hash of a command: link to its folder}


class Resume(Callback):
    """Hydra calls it before the first job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the sweep's folder: as given (hydra.sweep.dir, or run.dir), or the one that the
        same command has got, or a new one."""
        lines = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(lines, list)
        overrides = OverridesParser.create().parse_overrides(lines)
        folder = _given(config, overrides)
        if folder is None:
            folder = _of_command(Path(config.hydra.sweep.dir), overrides)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(folder)
            # each job is composed anew, from these
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
        if not _dry(overrides):
            jobs = _jobs(config, overrides)
            write_json(folder / FILE, {"command": lines, "jobs": jobs, "started": time.time()})


def _given(config: DictConfig, overrides: list[Override]) -> Path | None:
    if any(str(line).startswith("hydra.sweep.dir=") for line in config.hydra.overrides.hydra):
        return Path(config.hydra.sweep.dir)
    for override in overrides:
        if override.key_or_group == "run.dir" and not override.is_sweep_override():
            return Path(str(override.value())).expanduser()
    return None


def _of_command(new: Path, overrides: list[Override]) -> Path:
    """The folder of a command: `new`, if it has none yet."""
    deciding = [
        str(override.input_line)
        for override in overrides
        if str(override.key_or_group).split(".")[0] not in APART
    ]
    link = new.parent / COMMANDS / hash_json(deciding)[:16]
    if not _dry(overrides):
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(Path("..", new.name))
    return new.parent / link.readlink().name if link.is_symlink() else new


def _dry(overrides: list[Override]) -> bool:
    return any(o.key_or_group == "dry_run" and o.value() is True for o in overrides)


def _jobs(config: DictConfig, overrides: list[Override]) -> list[list[str]] | None:
    """What is different between the jobs, of each; None where a sweeper decides that as it goes."""
    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_")).endswith(f".{BasicSweeper.__name__}"):
        return None
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    every = [*OverridesParser.create().parse_overrides(params), *overrides]
    swept = [override for override in every if override.is_sweep_override()]
    return [job for batch in BasicSweeper.split_arguments(swept, None) for job in batch]
