"""The folder of a run, a sweep or a watch: the name of every file in it, and typed reading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class File:
    """A file of a `RunFolder`: an instance gives its path, the class gives its path relative to the folder."""

    def __init__(self, relative: str) -> None:
        self.relative = Path(relative)

    def __get__(self, folder: RunFolder | None, owner: type[RunFolder]) -> Path:
        return self.relative if folder is None else folder.path / self.relative


@dataclass(frozen=True)
class RunFolder:
    """The files of one folder, which need not exist yet.

    Hydra writes ``.hydra/`` and ``multirun.yaml``; submitit writes its own files into ``slurm/``.
    """

    path: Path

    results = File("results.json")
    samples = File("samples.jsonl")
    journal = File("journal.json")
    certificate = File("certificate.json")
    endpoint = File("endpoint.json")
    health = File("health.jsonl")
    report = File("report.html")
    lease = File("session.json")

    server_log = File("server.log")
    earlier_server_log = File("server.earlier.log")
    """The log of an earlier session, whose place a link to a shared server's log has taken."""
    ray_log = File("ray.log")
    triton_log = File("triton.log")
    triton = File("triton.json")
    """Where Triton's own HTTP and gRPC ports are, while it serves."""

    hydra = File(".hydra")
    config = File(".hydra/config.yaml")
    hydra_config = File(".hydra/hydra.yaml")
    overrides = File(".hydra/overrides.yaml")

    multirun = File("multirun.yaml")
    """What Hydra was told when a sweep began."""
    sweep = File("sweep.json")
    sweep_page = File("sweep.html")
    watch = File("watch.json")
    watch_page = File("watch.html")

    slurm = File("slurm")
    job = File("slurm/job.json")
    outcome = File("slurm/outcome.json")
    cancelled = File("slurm/cancelled")
    """Marks a job that must not be queued again."""
    requeue = File("slurm/requeue")
    """Tells the batch script of a job in a container to queue it again."""

    def counts(self, adapter: str) -> Path:
        """Return the file with the counts of an adapter."""
        return self.path / f"{adapter}.json"
