"""What a run works on: its base model, its checkpoints, its methods, its problem sets."""
