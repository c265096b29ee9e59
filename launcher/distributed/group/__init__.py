"""Processes that SLURM or torchrun started together: one leads a run, the others lend it their place."""
