"""Processes that SLURM or torchrun started together: rank 0 runs the launcher, other ranks host its workers."""
