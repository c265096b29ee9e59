"""The errors of the program; each one that ends a run has its exit code."""

from __future__ import annotations

from enum import Enum
from urllib.parse import urlsplit

LONGEST = 2000
"""The most characters of a message about a checkpoint, which quotes from untrusted files."""


class UserError(Exception):
    """A wrong setting or input: one line with the key, the value, and what works instead."""

    exit_code = 1


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, partial or of an unknown layout; names the file.

    The text is one line: control characters in quoted names are escaped.
    """

    def __init__(self, text: str) -> None:
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST])
        super().__init__(line)


class TaskError(UserError):
    """A task whose items cannot be read; names the file and the line."""


class DataMissing(TaskError):
    """Data that are not on this machine, and that a run may be able to fetch."""


class ObjectiveError(UserError):
    """An ``objective`` whose task has no such metric; it ends a sweep, of which no point could have a value."""


class ResumeError(UserError):
    """A run folder that cannot be resumed: a file is damaged, or a setting that changes answers differs; names it."""


class TakenOver(UserError):
    """Another session has taken the lease of the run folder; this one must stop writing to it."""


class StorageError(UserError):
    """A file that cannot be written, because the disk is full, read-only or gone; names the file."""


class ServerError(UserError):
    """A server that did not start, or died; names its log."""


class RankLost(ServerError):
    """A process of the group is lost with all that it hosts: nothing can be started there again."""


class ValidationFailed(Exception):
    """The endpoint failed a check of its certificate."""

    exit_code = 2


class CoverageTooLow(Exception):
    """Too few samples were scored for the result to be trusted."""

    exit_code = 3


class EngineUnavailable(Exception):
    """The engine cannot answer now (HTTP 503), because it stops or one of its processes died."""


class QueueFull(Exception):
    """All slots and all places in the queue are taken (HTTP 429).

    ``retry_after_s`` is the number of seconds after which a place is likely.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GrammarRefused(ValueError):
    """A grammar of a request that the engine cannot follow, from the begin or any further (HTTP 400)."""


class Failure(Enum):
    """Why a request got no usable answer."""

    connection = "connection"
    """The connection failed or broke."""
    timeout = "timeout"
    """The answer took too long."""
    answer = "answer"
    """The answer is unusable, for instance not JSON."""


class TransportError(Exception):
    """A request that got no usable answer, for one of the reasons of `Failure`."""

    def __init__(self, message: str, failure: Failure = Failure.answer) -> None:
        super().__init__(message)
        self.failure = failure


class HttpError(TransportError):
    """A request without a usable answer; ``reason`` has no URL."""

    def __init__(self, url: str, reason: str, failure: Failure = Failure.answer) -> None:
        super().__init__(f"{without_password(url)}: {reason}", failure)
        self.reason = reason


class ServerAway(Exception):
    """A request without an answer because the server is down or restarts; it is repeated once the server is back.

    It is not a `TransportError`, since a retry by an adapter would not help. ``outage`` is False if the server lost the
    request but stayed up.
    """

    def __init__(self, message: str, *, outage: bool = True) -> None:
        super().__init__(message)
        self.outage = outage


class AdapterError(Exception):
    """A request or answer that an adapter refuses, because it cannot handle it correctly."""


class AdapterStop(UserError):
    """An answer at which an adapter ends the whole evaluation."""


def without_password(url: str) -> str:
    """Return a URL without a user name and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.rpartition("@")[2]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else url
