"""Make checkpoints: supervised training of the base model, and RL with snapshots along the way."""
