"""The engine on vLLM: its model class for two checkpoints, worker, plugin, and what a CPU needs."""
