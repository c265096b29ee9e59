"""A training run as it is seen from outside: its checkpoints, as they come and go."""
