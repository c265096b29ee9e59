"""submitit's executor, which can also show the file that it would submit."""

from __future__ import annotations

import shutil

from submitit.slurm.slurm import SlurmExecutor


class Executor(SlurmExecutor):  # type: ignore[misc]  # submitit has no types that hold
    """Works, as far as `text`, on machines without SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def can_submit(self) -> bool:
        """Tell whether SLURM's commands are there."""
        return shutil.which("sbatch") is not None and shutil.which("srun") is not None

    def text(self) -> str:
        """Return the sbatch file."""
        return str(self._make_submission_file_text(self._submitit_command_str, "uid"))
