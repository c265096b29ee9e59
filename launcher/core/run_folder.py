"""The names of the files in the folder of a run or a sweep."""

SWEEP = "multirun.yaml"
"""Where Hydra keeps what a sweep was begun with."""
