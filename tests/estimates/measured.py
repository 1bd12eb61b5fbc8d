"""Train a model in this process and print what its memory grew by at the peak, as JSON.

python -m tests.estimates.measured FOLDER '{"hidden": 512, ...}'

Memory is what the kernel counts: anonymous pages of the process, at their highest since the model
was asked for; libraries, the interpreter and a first small run are there before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from pipeline.training.spec import Architecture
from pipeline.training.worker import run
from tests.training.pico import changed, rl_spec

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    from pipeline.training.scratch import make_model

    folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
    training = values.pop("training")
    torch.set_num_threads(1)
    make_model(Architecture(layers=1, hidden=32, heads=2, kv_heads=2), folder / "warm", 0)
    make_model(Architecture(**values), folder / "base", 0)
    common = {"steps": 1, "snapshot_every": 1, "checkpoint_every": 9, "prompts_per_step": 4}
    run(changed(rl_spec(folder / "warm_run", folder / "warm"), **common))
    before = resident("VmRSS")
    CLEAR.write_text("5")  # forget the highest so far
    run(changed(rl_spec(folder / "run", folder / "base"), **common, **training))
    metrics = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    print(json.dumps({"peak": resident("VmHWM") - before, "metrics": json.loads(metrics[-1])}))


if __name__ == "__main__":
    main()
