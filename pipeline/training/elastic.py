"""torchrun without its own report of a failed rank: the rank has said what happened.

`python -m pipeline.training.elastic` takes torchrun's arguments.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> int:
    """Start the ranks and wait for them; 1 if one of them fails."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
