"""submitit's executor, which can also show the file that it would submit."""

from __future__ import annotations

import shlex
import shutil

from submitit.slurm.slurm import SlurmExecutor

BEGIN = (
    "import runpy, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}); "
    "runpy.run_module('submitit.core._submit', run_name='__main__')"
)
"""What Python is given in a job. A warning that comes before the run can listen waits; it would end the process."""


class Executor(SlurmExecutor):  # type: ignore[misc]  # submitit has no types that hold
    """Works, as far as `text`, on machines without SLURM."""

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -c {shlex.quote(BEGIN)} {shlex.quote(str(self.folder))}"

    @classmethod
    def affinity(cls) -> int:
        return 1

    def can_submit(self) -> bool:
        """Tell whether SLURM's commands are there."""
        return shutil.which("sbatch") is not None and shutil.which("srun") is not None

    def text(self) -> str:
        """Return the sbatch file."""
        return str(self._make_submission_file_text(self._submitit_command_str, "uid"))
