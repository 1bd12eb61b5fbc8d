"""The entry point: `python -m pipeline +experiment=tiny`.

Composes the configuration, refuses what cannot work in one line (exit code 1), and hands over to
the runner. Imports nothing heavy.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import nullcontext

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pipeline import config as schema
from pipeline.ending import TRACEBACK, one_line, print_anything
from pipeline.stopping import stopped_by, unwind

STUMBLES = (ValueError, TypeError, AssertionError, AttributeError, LookupError)
SWEEP = ("-m", "--multirun")
_composed = False  # whether Hydra has done its part: what fails before that are the arguments

schema.register()


# The whole path: a relative one is looked for where the command is started, too.
@hydra.main(version_base="1.3", config_path=str(schema.CONF), config_name="config")
def _run(config: DictConfig) -> float | None:
    global _composed
    _composed = True
    from pipeline import runner

    # A sweep must learn that a job failed, so there the exception is left to Hydra.
    with nullcontext() if HydraConfig.get().mode == RunMode.MULTIRUN else one_line(_explain):
        return runner.run(config)


def main() -> None:
    """Run the command line; mistakes end in one line on stderr and exit code 1."""
    if _verbose():
        os.environ[TRACEBACK] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach the handlers
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in SWEEP)  # argparse wants it there
    print_anything()
    try:
        with one_line(_explain, quiet=True), stopped_by(unwind):
            _run()
    finally:
        gc.freeze()  # or the interpreter ends with seconds of search in what torch has made


def _verbose() -> bool:
    """True if the user wants tracebacks: hydra.verbose (true, or names of modules)."""
    said = [
        argument.partition("=")[2].lower()
        for argument in sys.argv
        if argument.lstrip("+").startswith("hydra.verbose=")
    ]
    asked = bool(said) and said[-1] not in ("false", "null")
    return asked or bool(os.environ.get("HYDRA_FULL_ERROR"))


def _explain(error: BaseException) -> str | None:
    known = isinstance(error, HydraException | OmegaConfBaseException)
    if not known and (_composed or not isinstance(error, STUMBLES)):
        return None
    from pipeline.explain import explain, explain_composing

    return (explain if known else explain_composing)(error, sys.argv[1:])


if __name__ == "__main__":
    main()
