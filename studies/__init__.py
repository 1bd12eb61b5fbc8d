"""Questions answered by whole sweeps of runs, each with a table and a figure in docs/results/."""
