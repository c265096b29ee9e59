"""Verdicts on finished runs: which is better, and may a checkpoint pass."""
