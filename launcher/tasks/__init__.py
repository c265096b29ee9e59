"""Tasks: samples to ask, and how to score the answers."""
