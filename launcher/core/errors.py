"""The few errors that a user can act on, each with the exit code it ends the program with."""

from __future__ import annotations

from enum import Enum

LONGEST = 2000
"""Characters of a message about a checkpoint, which quotes from strangers' files."""


class UserError(Exception):
    """A mistake in what was asked for: one line that names the key, the value and what works instead."""

    exit_code = 1


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, partial or of an unknown layout; names the file.

    The text is one line for any names that it quotes: a character that a terminal would act on is escaped.
    """

    def __init__(self, text: str) -> None:
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST])
        super().__init__(line)


class TaskError(UserError):
    """A task whose items cannot be read; names the file and the line."""


class ResumeError(UserError):
    """A run folder whose files are damaged, or that another setting of its answers cannot continue; names both."""


class TakenOver(UserError):
    """A run folder whose lease another session has taken: this one must not write to it any more."""


class StorageError(UserError):
    """A file that cannot be written: the disk is full, read-only or gone; names the file."""


class ServerError(UserError):
    """A server that did not start, or died; says where its log is."""


class ValidationFailed(Exception):
    """The endpoint failed a check of its certificate."""

    exit_code = 2


class CoverageTooLow(Exception):
    """Too few samples were scored for the result to be trusted."""

    exit_code = 3


class EngineUnavailable(Exception):
    """The engine cannot answer now (HTTP 503): it is stopping, or one of its processes died."""


class QueueFull(Exception):
    """Every slot and every place in the queue is taken (HTTP 429).

    ``retry_after_s`` is the number of seconds after which a place is likely.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Failure(Enum):
    """Why a request got no usable answer."""

    connection = "connection"
    """There was none, or it broke."""
    timeout = "timeout"
    """The answer took too long."""
    answer = "answer"
    """What came is no answer, for instance no JSON."""


class TransportError(Exception):
    """A request that got no usable answer, for one of the reasons of `Failure`."""

    def __init__(self, message: str, failure: Failure = Failure.answer) -> None:
        super().__init__(message)
        self.failure = failure


class ServerAway(Exception):
    """A request that was not answered because the server itself is gone, or restarts: it is to be asked again later.

    It is no `TransportError`, since an adapter that asks again can do nothing about it. ``outage`` is False for a
    request that the server lost without having gone.
    """

    def __init__(self, message: str, *, outage: bool = True) -> None:
        super().__init__(message)
        self.outage = outage


class AdapterError(Exception):
    """A request or answer that an adapter cannot handle correctly, so that it refuses instead of letting it pass."""
