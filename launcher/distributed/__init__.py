"""The allocation of a run, and groups of processes that form one launcher."""
