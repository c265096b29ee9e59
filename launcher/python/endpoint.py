"""A server that Python started, and ends."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from launcher.core.files import read_json
from launcher.core.run_folder import RunFolder
from launcher.python import tables
from launcher.python.errors import LauncherError, one_error
from launcher.python.process import Child


class Endpoint:
    """An OpenAI-compatible server with a valid certificate, which runs until `close`, or until the block ends."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._facts: Any = None
        if not child.wait_for(self._is_ready):
            raise LauncherError(child.reason, child.process.returncode or 1)

    @property
    def url(self) -> str:
        """The address for clients of OpenAI's API, which ends in ``/v1``."""
        return str(self._facts["url"])

    @property
    def model(self) -> str:
        """The name that a request gives as its ``model``."""
        return str(self._facts["model"])

    @property
    def folder(self) -> Path:
        """The folder with the certificate and the server's log."""
        assert self._child.folder is not None, "the endpoint is ready"
        return self._child.folder

    @property
    def certificate(self) -> Any:
        """All of ``certificate.json``."""
        with one_error():
            return read_json(RunFolder(self.folder).certificate)

    @property
    def is_running(self) -> bool:
        """Whether the process that serves still runs."""
        return self._child.process.poll() is None

    def close(self) -> None:
        """End the server. Raises `LauncherError` if it had ended before by itself."""
        ended_before = not self.is_running
        code = self._child.end()
        if ended_before and code:
            raise LauncherError(self._child.reason, code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._child.end()

    def __repr__(self) -> str:
        return f"Endpoint {self.model} at {self.url}: {'serves' if self.is_running else 'has ended'}"

    def _repr_html_(self) -> str:
        passed = sum(check["ok"] is True for check in (self.certificate or {}).get("checks", ()))
        state = "serves" if self.is_running else "has ended"
        return tables.as_html(f"{self.model} {state}", (), (), [self.url, f"{passed} checks passed", str(self.folder)])

    def _is_ready(self) -> bool:
        """Look for ``endpoint.json``, which an earlier server may have left in the same folder."""
        folder = self._child.folder
        found = read_json(RunFolder(folder).endpoint) if folder is not None else None
        if found and found.get("pid") == self._child.process.pid:
            self._facts = found
        return self._facts is not None
