"""The log file of one server, which holds no secret that the program knows."""

from __future__ import annotations

import logging
from pathlib import Path

from launcher.core.files import append
from launcher.core.redaction import redact

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def file_handler(path: Path) -> logging.FileHandler:
    """Return a handler that appends to a file; a new one is its owner's only. Raises `StorageError`."""
    append(path).close()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Redacting(FORMAT))
    return handler


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
