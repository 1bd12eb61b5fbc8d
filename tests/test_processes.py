"""Children end with their parent: would catch a run that holds a GPU, a port or a folder after who
asked for it was killed, and a child that ends although its parent lives."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.processes import PARENT
from tests.conftest import ROOT

CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
# what starts a child in a process that the test kills
KILLED = {
    "the helper itself": "from pipeline.processes import die_with_parent\n"
    f"subprocess.run([sys.executable, '-c', {CHILD!r}], preexec_fn=die_with_parent)",
    "an engine of a crew": "import multiprocessing\n"
    "from tests.watched import child\n"
    "process = multiprocessing.get_context('spawn').Process(target=child)\n"
    "process.start()\nsignal.pause()",
    "benchmarks/train.py": "sys.path.append('benchmarks')\nimport train\n"
    "sys.executable = fake\ntrain.turn('hf', 2, [])",
    "studies": "from studies.jobs import Job, run\n"
    "sys.executable = fake\nrun([Job('a', ())], folder, ())",
    "the GPU check": "from tests.gpu.bench import Bench\n"
    "sys.executable = fake\nBench(folder, True, folder / 'log').start('a')\nsignal.pause()",
}
# those that have another way to end
ELSEWHERE = {
    "pipeline/training/node.py": "ranks ask for it themselves, see worker.main",
    "pipeline/provenance.py": "git, for seconds",
    "pipeline/tasks/sandbox.py": "bubblewrap's --die-with-parent; limits and end of input",
}


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("who", KILLED)
def test_a_killed_parent_takes_its_child_along(
    who: str, sign: signal.Signals, tmp_path: Path
) -> None:
    said, fake = tmp_path / "said", tmp_path / "python"
    os.mkfifo(said)
    fake.write_text(f"#!/bin/sh\necho $$ > {said}\nexec sleep 600\n")
    fake.chmod(0o755)
    script = "import signal, subprocess, sys\nfrom pathlib import Path\n"
    script += f"folder, fake = Path({str(tmp_path)!r}), {str(fake)!r}\n{KILLED[who]}\n"
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=pipe, text=True)
    assert parent.stdout is not None
    told = said.open() if "fake" in KILLED[who] else parent.stdout
    child = os.pidfd_open(int(told.readline()))
    parent.send_signal(sign)
    parent.wait()
    gone, _, _ = select.select([child], [], [], 60)
    assert gone


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    """A rank imports for seconds before it can ask; its launcher was killed meanwhile."""
    script = (
        "import os\nfrom pipeline.processes import PARENT, be_parent, die_with_parent\n"
        "be_parent()\nos.environ[PARENT] = str(int(os.environ[PARENT]) + 1)\n"
        "die_with_parent()\nprint('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.returncode in (-signal.SIGHUP, -signal.SIGKILL)  # the latter under nohup
    assert done.stdout == b""


def test_a_child_of_a_child_has_another_parent() -> None:
    """A rank that starts a helper: the launcher's name, handed down, would end it at once."""
    script = (
        "import subprocess\nfrom pipeline.processes import die_with_parent\ndie_with_parent()\n"
        "print(subprocess.run(['true'], preexec_fn=die_with_parent).returncode)\n"
    )
    named = {**os.environ, PARENT: str(os.getpid())}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=named, capture_output=True)
    assert done.stdout == b"0\n"


@pytest.mark.parametrize("room", ["pipeline", "benchmarks", "studies", "tests/gpu"])
def test_every_child_is_told_to_end_with_its_parent(room: str) -> None:
    """A new place that starts processes and forgets it."""
    for path in sorted((ROOT / room).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name in ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                *("subprocess.run", "subprocess.Popen", "subprocess.check_output"),
                *("subprocess.call", "subprocess.check_call"),
            ):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("preexec_fn") == "die_with_parent", f"{name}:{node.lineno}"
