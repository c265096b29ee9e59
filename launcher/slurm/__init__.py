"""Runs as jobs of SLURM: submitted, followed, cancelled, continued."""
