"""The engine on transformers: one model, or two checkpoints in lockstep."""
