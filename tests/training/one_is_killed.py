"""A rank of two: the one that the argument names is killed, the other fails for want of it."""

from __future__ import annotations

import os
import signal
import sys

if os.environ["RANK"] == sys.argv[-1]:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(1)
