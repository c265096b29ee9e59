"""Where a run's processes are: the allocation, and the processes that are one launcher."""
