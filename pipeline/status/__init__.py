"""How far runs are: written by the runner as it goes, read by `python -m pipeline.status`."""
