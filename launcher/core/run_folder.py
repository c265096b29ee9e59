"""The folder of a run, a sweep or a watch: the name of every file in it, and typed reading."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from launcher.core.errors import ResumeError
from launcher.core.key_table import KeyTable
from launcher.core.lines import Tail, whole_lines
from launcher.core.records import from_line, key_of
from launcher.core.types import Record

T = TypeVar("T")


class File:
    """A file of a `RunFolder`: an instance gives its path, the class gives its path relative to the folder."""

    def __init__(self, relative: str) -> None:
        self.relative = Path(relative)

    def __get__(self, folder: RunFolder | None, owner: type[RunFolder]) -> Path:
        return self.relative if folder is None else folder.path / self.relative


class PlacedRecord(NamedTuple):
    """The record of a line, whose ``length`` bytes stand behind ``start`` others; the last one of a sample counts."""

    start: int
    length: int
    record: Record
    is_last: bool


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
    certificate_junit = File("certificate.xml")
    """The certificate in JUnit's format, which CI systems show."""
    load = File("load.json")
    endpoint = File("endpoint.json")
    health = File("health.jsonl")
    stage = File("stage.json")
    """What the run is doing now, while it goes on."""
    report = File("report.html")
    lease = File("session.json")
    failed = File("failed")
    """A file for each of the first samples that failed, with the requests and answers as they went over the wire."""
    adapter_failures = File("adapter_failures.json")
    """How often an adapter that only looks, or what one does after the run, has failed."""

    server_log = File("server.log")
    earlier_server_log = File("server.earlier.log")
    """The log of an earlier session, whose place a link to a shared server's log has taken."""
    launcher_log = File("launcher.log")
    """What the launcher itself said and logged; every other process has a log of its own."""
    ray_log = File("ray.log")
    ray_driver_log = File("server.driver.log")
    triton_log = File("triton.log")
    triton = File("triton.json")
    """Where Triton's own HTTP and gRPC ports are, while it serves."""

    proxy = File("proxy.json")
    """Where the proxy is, while it runs."""
    proxy_key = File("proxy.key")
    """The key that the proxy's clients send, while it runs; its owner's only."""
    proxy_log = File("proxy.log")
    proxy_adapters = File("proxy")
    """The folder of what the proxy's adapters write."""

    judge = File("judge")
    """The folder of the judge's server, with files as those of a run."""

    harness = File("harness")
    """The folders of the harnesses, each with its log, its files and its outcome."""

    hydra = File(".hydra")
    config = File(".hydra/config.yaml")
    hydra_config = File(".hydra/hydra.yaml")
    overrides = File(".hydra/overrides.yaml")

    multirun = File("multirun.yaml")
    """The configuration that a sweep began with."""
    sweep = File("sweep.json")
    sweep_page = File("sweep.html")
    watch = File("watch.json")
    watch_page = File("watch.html")

    export = File("export")
    """The folder of what `launcher.export` writes, by format."""

    race = File("race.json")
    """The models of a race."""
    comparison = File("comparison.json")
    comparison_page = File("comparison.html")
    servers = File("servers.json")
    servers_page = File("servers.html")
    """Servers side by side."""

    slurm = File("slurm")
    job = File("slurm/job.json")
    outcome = File("slurm/outcome.json")
    cancelled = File("slurm/cancelled")
    """Marks a job that must not be queued again."""
    requeue = File("slurm/requeue")
    """Tells the batch script of a job in a container to queue it again."""

    def record_lines(self) -> Iterator[tuple[bytes, Record]]:
        """Yield every line of ``samples.jsonl`` with its record; nothing if there is no such file.

        A last line without an end is left out: a session was killed while it wrote it, or writes it now. Any other
        line that is no record is damage. Raises `ResumeError`, which names the file and the line.
        """
        if self.samples.exists():
            with _reading(self.samples), self.samples.open("rb") as file:
                yield from _read(_with_line, self.samples, whole_lines(file))

    def records(self) -> Iterator[Record]:
        """Yield one record for each sample: its last, since a failed sample is asked again when a run is resumed.

        Raises `ResumeError` as `record_lines` does.
        """
        return (line.record for line in self.placed_records() if line.is_last)

    def placed_records(self) -> Iterator[PlacedRecord]:
        """Yield the record of every line of ``samples.jsonl``. Raises `ResumeError` as `record_lines` does."""
        if not self.samples.exists():
            return
        with _reading(self.samples), self.samples.open("rb") as file:  # one file, also if its writer replaces it
            earlier = _superseded(_read(key_of, self.samples, whole_lines(file)))
            file.seek(0)
            start = 0
            for number, (line, record) in enumerate(_read(_with_line, self.samples, whole_lines(file))):
                yield PlacedRecord(start, len(line), record, number not in earlier)
                start += len(line)

    def samples_version(self) -> tuple[int, ...] | None:
        """Return what changes with ``samples.jsonl``; None if there is no such file."""
        if not self.samples.exists():
            return None
        found = self.samples.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def lines_at(self, starts: Iterable[int]) -> Iterator[bytes]:
        """Yield the lines of ``samples.jsonl`` that begin after so many bytes."""
        with _reading(self.samples), self.samples.open("rb") as file:
            for start in starts:
                file.seek(start)
                yield file.readline()

    def of_replica(self, id: str) -> Path:
        """Return the log of a replica's server."""
        return self.path / f"server.{id}.log"

    def of_ray_node(self, rank: int) -> Path:
        """Return the log of the Ray of another node, which a rank of the group runs."""
        return self.path / f"ray.node-{rank}.log"

    def of_rank(self, rank: int, replica: str | None) -> Path:
        """Return the log of a rank, of a replica's server if there are replicas."""
        return self.path / (f"server.rank-{rank}.log" if replica is None else f"server.{replica}.rank-{rank}.log")

    def counts(self, adapter: str) -> Path:
        """Return the file with the counts of an adapter."""
        return self.path / self.counted(adapter)

    @staticmethod
    def counted(adapter: str) -> str:
        """Return the name of the file with the counts of an adapter."""
        return f"{adapter}.json"

    @classmethod
    def own_names(cls) -> frozenset[str]:
        """Return the names in the folder that are the run's own."""
        return frozenset(file.relative.parts[0] for file in vars(cls).values() if isinstance(file, File))


class SampleCounter:
    """Counts the samples that have a record, while an evaluation appends to ``samples.jsonl``."""

    def __init__(self, folder: Path) -> None:
        self._path = RunFolder(folder).samples
        self._tail = Tail(self._path)
        self._keys = KeyTable()

    def count(self) -> int:
        """Return how many there are by now. Raises `ResumeError` for a damaged line."""
        with _reading(self._path):
            new = self._tail.lines()
        for key in _read(key_of, self._path, new):
            self._keys.add(key)
        return len(self._keys)


def _superseded(keys: Iterable[str]) -> set[int]:
    """Return the numbers, from 0, of the lines whose sample has a later one."""
    table, last, found = KeyTable(), array("I"), set[int]()
    for number, key in enumerate(keys):
        place = table.add(key)
        if place < len(last):
            found.add(last[place])
            last[place] = number
        else:
            last.append(number)
    return found


def _with_line(line: bytes) -> tuple[bytes, Record]:
    return line, from_line(line)


def _read(reader: Callable[[bytes], T], path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[T]:
    """Yield what the reader makes of each line. Raises `ResumeError`, which names the line that it refuses."""
    for number, line in lines:
        try:
            found = reader(line)
        except ValueError as error:
            raise ResumeError(f"{path}:{number}: {error}; delete this line to ask its sample again") from None
        yield found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResumeError(f"{path}: cannot be read: {error.strerror or error}") from None
