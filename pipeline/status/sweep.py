"""How a sweep's folder is told from others."""

FILE = "sweep.json"  # {command, jobs: what is different in each, started}
