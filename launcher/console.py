"""Standard output and error that show no secret, and may be closed, full or left by their reader."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO, cast

from launcher.redaction import redact

READER_LEFT = (errno.EPIPE, errno.ECONNRESET)


class Stream:
    """A text stream that drops what cannot be written from the first failure on; ``failure`` says why.

    A reader that left (``launcher | head``) is no failure.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = False
        self.failure = ""

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, redact(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, call: Any, *arguments: str) -> None:
        if self._dropped:
            return
        try:
            call(*arguments)
        except UnicodeEncodeError:
            call(*(a.encode("ascii", "backslashreplace").decode("ascii") for a in arguments))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._drop(error)

    def _drop(self, error: OSError | ValueError) -> None:
        self._dropped = True
        if getattr(error, "errno", None) not in READER_LEFT:
            self.failure = getattr(error, "strerror", None) or str(error)
        try:  # what is still buffered must find a place when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tolerant() -> Stream:
    """Make the standard streams tolerant, and return standard output.

    A file descriptor that the program was started without is opened on the null device: the next file to be opened
    would get its number, and with it what children print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out = Stream(sys.stdout or os.fdopen(1, "w", closefd=False))
    sys.stdout = cast(TextIO, out)
    sys.stderr = cast(TextIO, Stream(sys.stderr or os.fdopen(2, "w", closefd=False)))
    return out
