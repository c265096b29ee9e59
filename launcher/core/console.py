"""The terminal: streams that may be closed or full, and text without control characters or secrets."""

from __future__ import annotations

import errno
import logging
import os
import sys
import unicodedata
from typing import Any, TextIO, cast

from launcher.core.redaction import redact

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

    A standard descriptor that is closed is opened on the null device. Otherwise the next file to be opened would get
    its number, and with it what children print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out = Stream(sys.stdout or os.fdopen(1, "w", closefd=False))
    sys.stdout = cast(TextIO, out)
    sys.stderr = cast(TextIO, Stream(sys.stderr or os.fdopen(2, "w", closefd=False)))
    if logging.lastResort is not None:  # Hydra is told to configure no logging: this handler prints warnings and errors
        logging.lastResort.setFormatter(Printable())
    return out


class Printable(logging.Formatter):
    """Formats a message, and the traceback that may be with it, without characters that steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def to_stderr(line: str) -> None:
    """Write a line on standard error; what it quotes of a server or a file does not reach the terminal as control."""
    print(printable(line), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return ``text`` without characters that steer a terminal, which a server's answer may hold.

    These are control characters, also those of C1, formats such as bidirectional overrides, halves of surrogate pairs
    and Unicode's own line ends. Line feeds stay, and tabs become spaces.
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(" " if character == "\t" else character for character in text if _harmless(character))


def one_line(text: str, most: int = 200) -> str:
    """Return at most so many characters of ``text``, which came from elsewhere, as part of one line of a message."""
    return printable(text[: most * 4].replace("\n", " "))[:most]


def _harmless(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
