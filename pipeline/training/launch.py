"""Start a training run: in this process, or as ranks under the deepspeed launcher or torchrun,
which srun starts on every node of a Slurm job.

The ranks inherit the terminal. Their rows come back through metrics.jsonl, which is followed
while they run, so a hook sees every row whichever way the run was started.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pipeline
from pipeline.artifacts import read_jsonl
from pipeline.errors import PipelineError
from pipeline.processes import die_with_parent, end_group
from pipeline.stopping import AGAIN, Requeue, stopped_by
from pipeline.training.check import check
from pipeline.training.checkpoints import check_output, finished
from pipeline.training.devices import child_environment
from pipeline.training.metrics import Log
from pipeline.training.schema import ComputeConfig
from pipeline.training.spec import Spec, write_spec
from pipeline.training.stop import ASKED, STOPPED, ask
from pipeline.training.worker import ERROR_FILE, SUPERVISED, run

MODULE = "pipeline.training.worker"


def launch(spec: Spec, log: Log | None = None) -> None:
    """Run `spec` to its end, resuming what is half done.

    Args:
        log: called with the rows of metrics.jsonl, each once, in order; where ranks resume, with
            those of the steps before the checkpoint too.

    Raises:
        PipelineError: the run failed: with the ranks' own message if it was a user's mistake,
            else with the exit code (their traceback is on stderr).
        Requeue: a signal asked for a stop, and the ranks have written a checkpoint.
    """
    check(spec)
    check_output(spec)
    if finished(spec):
        return
    output = Path(spec.output)
    path = output / "spec.json"
    write_spec(spec, path)
    for earlier in (ASKED, STOPPED):
        (output / earlier).unlink(missing_ok=True)
    if spec.compute.launcher == "none" and not spec.compute.vllm_rollouts:
        run(spec, log)
        return
    (output / ERROR_FILE).unlink(missing_ok=True)
    with stopped_by(partial(ask, output)):
        code = _supervise(command(spec.compute, path), spec.compute, output / "metrics.jsonl", log)
    if (output / STOPPED).exists():
        raise Requeue((output / STOPPED).read_text(encoding="utf-8").strip())
    if code == 0:
        return
    if (output / ERROR_FILE).exists():
        raise PipelineError((output / ERROR_FILE).read_text(encoding="utf-8").strip())
    if (output / ASKED).exists():
        raise Requeue(f"stopped before a step was done: {AGAIN}")
    raise PipelineError(_ended(spec, code, path))


def _ended(spec: Spec, code: int, path: Path) -> str:
    """How ranks ended that said nothing themselves."""
    ranks = f"{spec.kind} training: {spec.compute.world_size} ranks"
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return (
            f"{ranks}: one was ended by {name}{memory}; run the same command again to resume from "
            "the last checkpoint"
        )
    return f"{ranks} ended with code {code}; what they said is above, the spec in {path}"


def command(compute: ComputeConfig, spec: Path) -> list[str]:
    """The command line that starts this node's ranks of `python -m pipeline.training.worker`."""
    port = compute.master_port
    if compute.launcher == "none":
        return [sys.executable, "-m", MODULE, str(spec)]
    if compute.launcher in ("torchrun", "srun"):
        line = [sys.executable, "-m", "pipeline.training.elastic"]
        line += ["--nproc-per-node", str(compute.processes), "--nnodes", str(compute.nodes)]
        if compute.nodes == 1 and port is None:
            line.append("--standalone")
        elif compute.launcher == "torchrun":
            line += _meeting(compute.master_address or "127.0.0.1", port or 29500)
        else:  # this process is on the job's first node
            line += _meeting(compute.master_address or socket.gethostname(), port or _free_port())
        line += ["--module", MODULE, str(spec)]
        return _on_each_node(compute, line) if compute.launcher == "srun" else line
    end = ["--no_local_rank", "--log_level", "critical", "--module", MODULE, str(spec)]
    if compute.nodes == 1:
        # The part of the deepspeed launcher that starts a node's ranks. Its front end would only
        # find out that there is one node, and leaves the ranks behind when it is told to end.
        world = base64.urlsafe_b64encode(json.dumps({"localhost": _devices(compute)}).encode())
        line = [sys.executable, "-m", "pipeline.training.node", "--world_info", world.decode()]
        line += ["--master_addr", "127.0.0.1", "--master_port", str(port or _free_port())]
        return [*line, *end]
    line = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(compute.hostfile)]
    line += ["--num_gpus", str(compute.processes), "--num_nodes", str(compute.nodes)]
    line += ["--master_port", str(port or 29500)]
    if compute.master_address is not None:
        line += ["--master_addr", compute.master_address]
    return [*line, *end]


def _meeting(address: str, port: int) -> list[str]:
    return ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{address}:{port}"]


def _on_each_node(compute: ComputeConfig, line: list[str]) -> list[str]:
    """`line` once on each node of this Slurm job; if one ends badly, so do the others."""
    step = ["srun", f"--nodes={compute.nodes}", f"--ntasks={compute.nodes}", "--ntasks-per-node=1"]
    return [*step, "--kill-on-bad-exit=1", "--overlap", *line]


def _devices(compute: ComputeConfig) -> list[int | str]:
    """The devices of this node's ranks: of those that a scheduler has given us, the first ones."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not (given and torch.cuda.is_available()):
        return list(range(compute.processes))
    if len(given) < compute.processes:
        raise PipelineError(
            f"compute.processes is {compute.processes} but CUDA_VISIBLE_DEVICES has {len(given)}"
        )
    return list(given[: compute.processes])


def _supervise(line: list[str], compute: ComputeConfig, metrics: Path, log: Log | None) -> int:
    """Run `line` as a process group and return its exit code; the group never outlives us.

    However this function is left (interrupt, SIGTERM turned into an exception, error in `log`),
    the group is ended; if this process is killed outright, the kernel ends its child.
    """
    root = str(Path(pipeline.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **child_environment(compute), "PYTHONPATH": os.pathsep.join(paths)}
    environment[SUPERVISED] = "1"
    process = subprocess.Popen(
        line, env=environment, start_new_session=True, preexec_fn=die_with_parent
    )
    follower = _Follower(metrics, log)
    try:
        while process.poll() is None:
            follower.poll()
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
        follower.poll()
        return process.returncode
    finally:
        end_group(process)


class _Follower:
    """Hands the rows of a metrics file to `log`, each once, as they appear.

    A run that resumes takes rows away, those of the steps that it trains again, and writes them
    anew: a step whose row has changed is handed on again.
    """

    def __init__(self, path: Path, log: Log | None) -> None:
        self.path = path
        self.log = log
        self.state = (-1, -1)
        self.seen: dict[int, dict[str, Any]] = {}

    def poll(self) -> None:
        stat = self.path.stat() if self.path.exists() else None
        state = (0, 0) if stat is None else (stat.st_ino, stat.st_size)
        if self.log is None or state == self.state:
            return
        self.state = state
        for row in read_jsonl(self.path):
            if self.seen.get(row["step"]) != row:
                self.seen[row["step"]] = row
                self.log(row)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
