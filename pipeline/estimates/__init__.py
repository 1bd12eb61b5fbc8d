"""What a run will take before it starts: memory by part, disk, tokens, time; for dry runs."""
