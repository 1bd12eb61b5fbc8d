"""Training checkpoints that are whole or not there, and their link to the spec that made them.

A checkpoint holds many files from many ranks, written one by one. It counts only once the marker
file is in it, and the marker is written after every rank has finished.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from pipeline.artifacts import read_jsonl, read_own, write_json, write_jsonl
from pipeline.errors import PipelineError
from pipeline.faults import naming
from pipeline.training.spec import RlSpec, Spec, fingerprint

MARKER = "whole.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_whole(folder: Path, step: int) -> None:
    """Flush every file of a finished checkpoint to disk, then mark it."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with naming(file), open(file, "rb") as handle:
                os.fsync(handle.fileno())
    write_json(folder / MARKER, {"step": step})


def whole_checkpoints(folder: Path) -> dict[int, Path]:
    """The whole checkpoints below `folder` by RL (or SFT) step, the newest last."""
    found = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and (path / MARKER).is_file():
            found.append((int(match[1]), path))
    return {int(read_own(path / MARKER, "step")["step"]): path for _, path in sorted(found)}


def resumable(spec: Spec) -> tuple[Path, int] | None:
    """The checkpoint that `spec` resumes from, and its step; None where it starts anew.

    That is the newest one that is not beyond the steps asked for, and that has all the snapshots
    asked for up to it: a run that continues cannot make up for them.
    """
    output = Path(spec.output)
    for step, path in reversed(whole_checkpoints(output / "checkpoints").items()):
        if step <= spec.steps and not missing_snapshots(spec, step):
            return path, step
    return None


def newest_step(spec: Spec) -> int:
    """The step of the newest whole checkpoint, asked for or not; 0 if there is none."""
    return max(whole_checkpoints(Path(spec.output) / "checkpoints"), default=0)


def missing_snapshots(spec: Spec, until: int) -> list[int]:
    """The steps up to `until` whose snapshot `spec` asks for and that is not there."""
    if not isinstance(spec, RlSpec):
        return []
    folder = Path(spec.output) / "snapshots"
    due = range(every := spec.rl_train.snapshot_every, until + 1, every)
    return [step for step in due if not (folder / f"step_{step}").is_dir()]


def finished(spec: Spec) -> bool:
    """Whether an RL run of the same fingerprint has made all that `spec` asks for, and maybe more.

    Never true of SFT, whose last act is to write the model.
    """
    if not isinstance(spec, RlSpec):
        return False
    rows = read_jsonl(Path(spec.output) / "metrics.jsonl")
    trained = max((int(row["step"]) for row in rows), default=0)
    return trained >= spec.steps and not missing_snapshots(spec, spec.steps)


def check_output(spec: Spec) -> None:
    """Refuse to train where another spec has: its checkpoints must not be resumed, nor its
    snapshots mixed with ours, nor thrown away.

    Raises:
        PipelineError: names the folder.
    """
    record = Path(spec.output) / "fingerprint.json"
    if record.exists() and read_own(record) != {"fingerprint": fingerprint(spec)}:
        raise PipelineError(
            f"{spec.output}: holds a run from another model, data or values; "
            "move it away, or choose another run.dir"
        )


def prepare_output(spec: Spec) -> None:
    """Make `spec.output` fit to start or resume from; run by one process before the others go on.

    Removed are half-written checkpoints and snapshots, and whatever comes after the checkpoint that
    training resumes from: those steps are run again.
    """
    output = Path(spec.output)
    write_json(output / "fingerprint.json", {"fingerprint": fingerprint(spec)})
    for leftover in output.glob("**/.*.partial"):
        shutil.rmtree(leftover)
    resumed = resumable(spec)
    step = 0 if resumed is None else resumed[1]
    whole = whole_checkpoints(output / "checkpoints")
    kept = {path for number, path in whole.items() if number <= step}
    for checkpoint in (output / "checkpoints").glob("checkpoint-*"):
        if checkpoint not in kept:
            shutil.rmtree(checkpoint)
    for snapshot in (output / "snapshots").glob("step_*"):
        if int(snapshot.name.removeprefix("step_")) > step:
            shutil.rmtree(snapshot)
    for values in (output / "linearity").glob("step_*.safetensors"):
        if int(values.stem.removeprefix("step_")) > step:
            values.unlink()
    for name in ("metrics.jsonl", "regrounds.jsonl", "rollouts.jsonl"):
        _cut_rows(output / name, step)


def _cut_rows(path: Path, step: int) -> None:
    rows = read_jsonl(path)
    kept = [row for row in rows if row["step"] <= step]
    if path.exists() and (len(kept) < len(rows) or not path.read_bytes().endswith(b"\n")):
        write_jsonl(path, kept)
