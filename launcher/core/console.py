"""The terminal: streams that may be closed or full, and text without control characters or secrets."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TextIO, cast

from launcher.core.redaction import redact

LISTENERS: list[Callable[[str], object]] = []
"""These get each line that `to_stderr` writes."""
READER_LEFT = (errno.EPIPE, errno.ECONNRESET)
ERASE = "\r\x1b[2K"
"""Moves to the start of the line and erases it."""
SPINNER = "-\\|/"
NARROWEST, WIDEST = 60, 110
"""Columns of a page of help: a terminal may say that it is narrower or wider."""


class Stream:
    """A text stream that drops what cannot be written from the first failure on; ``failure`` says why.

    A reader that left (``launcher | head``) is no failure.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = False
        self.failure = ""

    def write(self, text: str) -> int:
        with _line.around(self._stream):
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


class _StatusLine:
    """One line below all others on a terminal, which is drawn again and again; what is printed goes above it."""

    def __init__(self) -> None:
        self._text, self._turn, self._drawn = "", 0, False
        self._lock = threading.RLock()

    def show(self, text: str) -> None:
        """Draw a line on standard error, cut to the width of the terminal; an empty text removes it."""
        stream = getattr(sys.stderr, "_stream", sys.stderr)
        with self._lock:
            self._erase(stream)
            self._text, self._turn = redact(printable(text)), self._turn + 1
            self._draw(stream)

    @contextmanager
    def around(self, stream: TextIO) -> Iterator[None]:
        """Make room for what the body writes to a terminal."""
        if not self._drawn or not stream.isatty():
            yield
            return
        with self._lock:
            self._erase(getattr(sys.stderr, "_stream", sys.stderr))
            yield

    def _draw(self, stream: TextIO) -> None:
        if self._text:
            width = os.get_terminal_size(stream.fileno()).columns or 80
            line = f"{SPINNER[self._turn % len(SPINNER)]} {self._text}"
            stream.write(line if len(line) < width else f"{line[: width - 4]}...")
            stream.flush()
            self._drawn = True

    def _erase(self, stream: TextIO) -> None:
        if self._drawn:
            stream.write(ERASE)
            stream.flush()
            self._drawn = False


_line = _StatusLine()


def status(text: str) -> None:
    """Show what goes on in the last line of the terminal until the next call; an empty text removes it.

    Call it only where standard error `redraws`.
    """
    with suppress(OSError, ValueError):
        _line.show(text)


def redraws(stream: IO[str]) -> bool:
    """Tell whether a stream is a terminal on which lines can be drawn again."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


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
    for listener in LISTENERS:
        listener(line)


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


def terminal_width() -> int:
    """Return how wide a page of help may be."""
    return max(NARROWEST, min(shutil.get_terminal_size((80, 24)).columns, WIDEST))
