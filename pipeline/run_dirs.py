"""Where a run lives, which of the runs that there are is the same, and one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from yaml import YAMLError

from pipeline.arguments import split
from pipeline.artifacts import hash_json
from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError
from pipeline.faults import naming
from pipeline.settings import deciding
from pipeline.sharing import Store

APART = ("run", "stages", "dry_run", "tracking")  # decide no result


def typed() -> list[str]:
    """The overrides as they were typed: a reference in one of them is not Hydra's to resolve."""
    found = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(found, list)
    return found


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def given() -> bool:
    """Whether run.dir was typed."""
    pairs = (split(argument) for argument in typed())
    return any(pair is not None and pair[0] == "run.dir" for pair in pairs)


def find(config: PipelineConfig) -> Path:
    """Where this run lives: as given, or the newest run of the same configuration, or a new one.

    A job of a sweep has its own folder in the sweep's, and `run.dir` may name that one.
    """
    if in_sweep() and not (given() and _sweep_dir() != Path(config.run.dir).resolve()):
        return _sweep_dir() / HydraConfig.get().sweep.subdir
    if given():
        return Path(config.run.dir).resolve()
    wanted = identity(asdict(config))
    for folder in sorted(Path("outputs", config.name).glob("*/config.yaml"), reverse=True):
        stored = _stored(folder)
        if isinstance(stored, dict) and identity(stored) == wanted:
            return folder.parent.resolve()
    return Path(config.run.dir).resolve()


def store(config: PipelineConfig, run_dir: Path) -> Store | None:
    """What this run shares with others: as given, or the sweep's, or what it shares already."""
    if config.run.shared is not None:
        return Store(Path(config.run.shared).resolve())
    return Store(_sweep_dir() / "shared") if in_sweep() else Store.of_run(run_dir)


def expand_home(config: PipelineConfig) -> None:
    """`~` in a path: a shell leaves it as it is behind a `=`."""
    sections = ((config.run, ("dir", "cache", "shared")), (config.model, ("path",)))
    for section, keys in (*sections, (config.snapshot, ("source", "base"))):
        for key in keys:
            if getattr(section, key) is not None:
                setattr(section, key, os.path.expanduser(getattr(section, key)))  # noqa: PTH111
    for member in config.logit_extrap.members:
        member.model = os.path.expanduser(member.model)  # noqa: PTH111
    for paths in (config.snapshot.checkpoints, config.evaluate.models):
        for name, path in paths.items() if isinstance(paths, dict) else ():
            if isinstance(path, str):
                paths[name] = os.path.expanduser(path)  # noqa: PTH111


def identity(values: dict[Any, Any]) -> str:
    """What makes two runs the same: what decides their results, wherever and whichever stages."""
    return hash_json(deciding(values, [key for key in values if key not in APART], places=True))


@contextmanager
def locked(
    run_dir: Path, wait: Callable[[], None] | None = None, *, shared: bool = False
) -> Iterator[None]:
    """Two processes in one run directory would write over each other.

    Args:
        wait: called if there is another one, whose end is then waited for.
        shared: with others that say so, too: the parts of an evaluation.

    Raises:
        PipelineError: there is another one, and no `wait`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with open(run_dir / ".lock", "a+") as file:  # a file server wants it open both ways
        try:
            with naming(run_dir / ".lock"):
                fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                raise PipelineError(
                    f"{run_dir}: another pipeline works here; wait for it or choose another run.dir"
                ) from None
            wait()
            with naming(run_dir / ".lock"):
                fcntl.flock(file, mode)
        yield


def _sweep_dir() -> Path:
    return Path(HydraConfig.get().sweep.dir).resolve()


def _stored(path: Path) -> Any:
    """The content of a config.yaml."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"{path}: not valid YAML ({reason}); correct or remove it") from None
