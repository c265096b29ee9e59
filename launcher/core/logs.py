"""The logs of a run: one file per process, a JSON object per line, without secrets, and bounded in size."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, NamedTuple

from launcher.core import console
from launcher.core.errors import StorageError
from launcher.core.files import append, storing
from launcher.core.redaction import redact
from launcher.core.types import Json

MAX_BYTES, KEPT = 32 << 20, 3
"""A log that has so many bytes gets the suffix ``.1``, and so on; the older ones of so many are removed."""
READ_BYTES = 2**16
HELD_BYTES = 2**16
"""A line without an end is written in parts of this size."""
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|AUTH(?!OR)", re.IGNORECASE)
NOT_SECRET = re.compile(r"^(SSH_AUTH_SOCK|XAUTHORITY|TOKENIZERS_PARALLELISM|.*(_FILE|_PATH|_DIR))$")
"""Variables whose names look like those of secrets, and whose values are none."""
MIN_SECRET = 8
LEVEL = re.compile(
    r"^(?P<glog>[IWEF])\d{4} |^\[[\d :.,-]+ (?P<ray>[IWEF]) |(?<![\w./])"
    r"(?P<word>DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|ALERT|CRITICAL|FATAL)(?!\w)"
)
"""The level of a line of glog, of Ray's C++, or of a logger that spells it, as most others do."""
LEVEL_WITHIN = 64
LEVELS = {
    "I": "info", "W": "warning", "E": "error", "F": "critical", "NOTICE": "info", "WARN": "warning", "ALERT": "error",
    "FATAL": "critical",
}  # fmt: skip


class _Rotating(RotatingFileHandler):
    """A file that is its owner's only, and that is rotated once it is too large, before the next line."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        return self.stream is not None and self.stream.tell() >= self.maxBytes


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def file_handler(path: Path, process: str | None = None) -> logging.Handler:
    """Return a handler that appends the records of a process to a log. Raises `StorageError`."""
    import structlog

    append(path).close()
    handler = _Rotating(path, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8")
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[_Line(process or path.stem), structlog.processors.JSONRenderer(serializer=_dumped)],
            foreign_pre_chain=[structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder({"request_id"})],
        )
    )
    return handler


class _Line:
    """Gives an event the fields of a line: time, level, process, event, request id, and any others behind them."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, logger: Any, method: str, event: Any) -> dict[str, Json]:
        record: logging.LogRecord = event.pop("_record")
        event.pop("_from_structlog", None)
        text = event.pop("event")
        if error := event.pop("exc_info", None):
            text = f"{text}\n{logging.Formatter().formatException(error)}"
        return line(text, self._process, record.levelname.lower(), record.created, event)


def line(text: str, process: str, level: str, created: float, more: Mapping[str, Json]) -> dict[str, Json]:
    """Return the object of a line."""
    time = datetime.fromtimestamp(created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"time": time, "level": level, "process": process, "event": text, **more}


def _dumped(value: Json, **_: object) -> str:
    return redact(json.dumps(value, ensure_ascii=False, default=str))


def bind(**fields: str) -> None:
    """Put fields, such as the ``request_id``, on all lines that this task and its children log from now on."""
    from structlog.contextvars import bind_contextvars

    bind_contextvars(**fields)


class _Brief(console.Printable):
    """Formats an error as one line that names the log, which has its traceback."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def format(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.exc_info[1] is None:
            return super().format(record)
        error, said = record.exc_info[1], copy(record)
        said.exc_info = said.exc_text = None
        text = super().format(said)
        why = "" if str(error) in text else f": {type(error).__name__}: {console.one_line(str(error))}"
        return f"{text}{why}; the traceback is in {self._log}"


@contextmanager
def launcher_log(path: Path) -> Iterator[None]:
    """Log what the launcher prints on standard error, and what its modules log. Raises `StorageError`.

    What the modules log as an error is one line on the terminal.
    """
    handler, root = file_handler(path, "launcher"), logging.getLogger()
    shown = logging.lastResort if not root.handlers else None  # a root with a handler shows nothing any more
    before = shown.formatter if shown is not None else None
    said = logging.Logger("launcher.console", logging.INFO)
    said.addHandler(handler)
    added = [each for each in (handler, shown) if each is not None]
    for each in added:
        root.addHandler(each)
    if shown is not None:
        shown.setFormatter(_Brief(path))
    console.LISTENERS.append(said.info)
    try:
        yield
    finally:
        console.LISTENERS.remove(said.info)
        for each in added:
            root.removeHandler(each)
        if shown is not None:
            shown.setFormatter(before)
        handler.close()


class LogFile(NamedTuple):
    """Where the output of a process goes, and what its lines call the process."""

    path: Path
    process: str


@contextmanager
def captured(log: LogFile, environment: Mapping[str, str]) -> Iterator[tuple[int, OutputLog]]:
    """Yield a descriptor to start a program with, whose output then goes to a log. Raises `StorageError`.

    The log's thread ends when all processes have ended that inherited the descriptor.
    """
    append(log.path).close()
    read, write = os.pipe()
    writer = OutputLog(read, log.path, log.process, environment)
    try:
        yield write, writer
    finally:
        os.close(write)
        writer.start()


class OutputLog(threading.Thread):
    """Copies what a program prints into a log, a line for each of its lines; `fault` says why it could not.

    Values of variables in the program's ``environment`` whose names look like those of secrets are left out.
    """

    def __init__(self, pipe: int, path: Path, process: str, environment: Mapping[str, str]) -> None:
        super().__init__(name=f"log {path}", daemon=True)
        self._pipe, self._path, self._process = pipe, path, process
        self._secrets = secrets_of(environment)
        self.fault: StorageError | None = None
        self._file = append(path)

    def run(self) -> None:
        held = b""
        while data := os.read(self._pipe, READ_BYTES):
            *lines, held = re.split(rb"(?<=[\r\n])", held + data)
            if len(held) > HELD_BYTES:
                lines, held = [*lines, held], b""
            self._write(lines)
        self._write([held])
        self._file.close()
        os.close(self._pipe)

    def _write(self, lines: list[bytes]) -> None:
        texts = [text for raw in lines if (text := raw.decode(errors="replace").rstrip("\r\n"))]
        if not texts or self.fault is not None:  # the program must not wait for a full disk
            return
        common = line("", self._process, "", datetime.now(UTC).timestamp(), {})
        found = [common | {"level": level_of(text), "event": text} for text in texts]
        data = self._redacted(redact("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in found)))
        try:
            with storing(self._path):
                self._file.write(data.encode("utf-8", "backslashreplace"))
                if self._file.tell() >= MAX_BYTES:
                    self._rotate()
        except StorageError as error:
            self.fault = error

    def _redacted(self, text: str) -> str:
        for value, mark in self._secrets.items():
            text = text.replace(value, mark)
        return text

    def _rotate(self) -> None:
        self._file.close()
        for number in range(KEPT, 0, -1):
            older = self._path if number == 1 else rotated(self._path, number - 1)
            if older.exists():
                older.replace(rotated(self._path, number))
        self._file = append(self._path)


def level_of(text: str) -> str:
    """Return the level that a line of another program says it has; ``info`` if it says none."""
    found = LEVEL.search(text, 0, LEVEL_WITHIN)
    word = found[found.lastgroup or 0] if found else "INFO"
    return LEVELS.get(word, word.lower())


def rotated(path: Path, number: int) -> Path:
    """Return where a log goes as the ``number``-th last one."""
    return path.with_name(f"{path.name}.{number}")


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what stands in place of each value that looks like a secret, as JSON spells it; long ones first."""
    found = {
        json.dumps(value, ensure_ascii=False)[1:-1]: f"[redacted: {name}]"
        for name, value in environment.items()
        if SECRET_NAME.search(name) and not NOT_SECRET.match(name) and len(value) >= MIN_SECRET and not value.isdigit()
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def event_of(raw: bytes) -> str:
    """Return the event of a line of a log; a line that is no JSON as it is."""
    text = raw.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return str(found["event"]) if isinstance(found, dict) and "event" in found else text
