"""One Triton: a process that is started, asked whether it works, and killed."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.backends.pytriton.installation import MODEL, backends, environment, install, models, program
from launcher.backends.pytriton.ports import Ports
from launcher.backends.pytriton.workspace import shared_memory_prefix
from launcher.core import processes
from launcher.core.cleanup import SHARED_MEMORY, Leftovers
from launcher.core.files import append
from launcher.core.http import HttpError, fetch, netloc, parsed
from launcher.core.types import Json

HTTP_TOKEN_HEADER = "triton-access-token"
ADMIN = ("shared-memory", "model-repository", "statistics", "trace", "logging")
"""What Triton does only for who has the token; with an API key, inference too."""
LOOK_S = 0.05
FAILURE = re.compile(rb'^E\d{4} .*\] "(failed to load .*?)(?:\\n|"?$)', re.MULTILINE)
QUOTED = 300
ANSWER_S = 5.0
SHARED_MEMORY_BYTES, GROWTH_BYTES = 4 << 20, 1 << 20
"""Of the memory that Triton shares with its Python stub: at first, and by how much it grows. Its default is 64 MiB."""


@dataclass(frozen=True)
class Settings:
    """What stays the same from one Triton to the next.

    ``guarded`` asks for the token for inference, too. ``announcement`` is the file that says where Triton answers,
    ``engine`` the socket at which its model finds the engine.
    """

    host: str
    gpus: bool
    guarded: bool
    announcement: Path
    log_file: Path
    engine: Path


class Server:
    """One Triton with its Python stub, which run from ``folder``. A dead one cannot be started again.

    Each has a name and an access token of its own: what was meant for a dead one must not reach the next one, which may
    listen on the same ports.
    """

    def __init__(self, settings: Settings, ports: Ports, folder: Path) -> None:
        self.ports = ports
        self.token = secrets.token_urlsafe(32)
        self._id = f"launcher-{secrets.token_hex(8)}"
        self._settings = settings
        self._folder = folder
        self._memory = f"{shared_memory_prefix(folder.parent)}{folder.name}-"
        self._guard = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: list[int] = []
        self._logged = 0

    def start(self) -> None:
        """Begin to start, unless it was stopped already. Raises `OSError`."""
        with self._guard, append(self._settings.log_file) as log:
            if self._stopped:
                return
            self._logged = log.tell()
            install(self._folder, self._settings.engine)
            self._process = subprocess.Popen(
                [program(self._folder), *self._options()],
                cwd=self._folder,
                env=environment(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the launcher
                umask=0o077,
            )

    def wait(self, timeout_s: float) -> str | None:
        """Wait until Triton and its model are ready; return why they are not, or None."""
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            self._close_memory()
            if self._process is None or self._process.poll() is not None:
                return f"it died while starting{self._reason()}"
            if time.monotonic() > deadline:
                return f"it did not start within {timeout_s:g} s"
            time.sleep(LOOK_S)
        self._close_memory()
        self._pids = processes.started_from(self._folder)
        return self._foreign() or self.lost()

    def _close_memory(self) -> None:
        """Close the memory that Triton shares with its stub to other users: prompts go through it from now on.

        Triton makes it readable for everybody whatever its umask is, and no option changes that.
        """
        for segment in SHARED_MEMORY.glob(f"{self._memory}*"):
            with suppress(FileNotFoundError):
                segment.chmod(0o600)

    def lost(self) -> str | None:
        """Return which process has died, or None."""
        if not self._pids:
            return "its processes are gone"
        dead = [pid for pid in self._pids if not processes.is_running(pid)]
        return f"process {dead[0]} died" if dead else None

    def ask(self, timeout_s: float, **body: Json) -> str | None:
        """Make an inference over HTTP; return what is wrong, or None."""
        try:
            status, answer = self._post(f"/v2/models/{MODEL}/generate", body, timeout_s)
        except HttpError as error:
            return error.reason
        except ValueError as error:
            return str(error)
        if status != 200 or "error" in answer:
            return str(answer.get("error", f"HTTP {status}")).strip().rpartition("\n")[2]
        return None

    def metrics(self, timeout_s: float = 2.0) -> bytes:
        """Return what Triton counts, in Prometheus' text format; nothing if it does not answer."""
        try:
            return _get(self._settings.host, self.ports.metrics, "/metrics", timeout_s)[1]
        except HttpError:
            return b""

    def stop(self) -> None:
        """Kill Triton at once, since nobody has a request under way any more: its own way takes seconds."""
        with self._guard:
            self._stopped = True
        Leftovers(os.fspath(self._folder), shared_memory=self._memory).remove()
        if self._process is not None:
            self._process.wait()

    def _reason(self) -> str:
        """Return what this Triton has logged of a model that it could not load."""
        if not self._settings.log_file.exists():
            return ""
        with self._settings.log_file.open("rb") as log:
            log.seek(self._logged)
            found = FAILURE.search(log.read())
        return f": {found[1].decode(errors='replace')[:QUOTED]}" if found else ""

    def _ready(self) -> bool:
        try:
            return _get(self._settings.host, self.ports.http, "/v2/health/ready", LOOK_S)[0] == 200
        except HttpError:
            return False

    def _foreign(self) -> str | None:
        """Return what is wrong if another server answers on our port, or nobody any more."""
        try:
            told = parsed(_get(self._settings.host, self.ports.http, "/v2", ANSWER_S)[1])
        except HttpError as error:
            return f"it does not answer any more: {error.reason}"
        except ValueError:
            told = None
        name = told.get("name", "nameless") if isinstance(told, dict) else "no Triton"
        return None if name == self._id else f"another server ({name}) answers on port {self.ports.http}"

    def _options(self) -> Iterator[str]:
        settings, ports = self._settings, self.ports
        guarded = ",".join((*ADMIN, "inference") if settings.guarded else ADMIN)
        yield f"--id={self._id}"
        yield f"--model-repository={models(self._folder)}"
        yield f"--backend-directory={backends(self._folder)}"
        yield "--model-control-mode=explicit"
        yield "--load-model=*"
        for name, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics)):
            yield f"--{name}-address={settings.host}"
            yield f"--{name}-port={port}"
        yield f"--http-restricted-api={guarded}:{HTTP_TOKEN_HEADER}={self.token}"
        yield f"--grpc-restricted-protocol={guarded}:{HTTP_TOKEN_HEADER}={self.token}"
        yield f"--log-file={settings.log_file}"
        yield f"--allow-gpu-metrics={str(settings.gpus).lower()}"
        yield f"--backend-config=python,shm-region-prefix-name={self._memory}"
        yield f"--backend-config=python,shm-default-byte-size={SHARED_MEMORY_BYTES}"
        yield f"--backend-config=python,shm-growth-byte-size={GROWTH_BYTES}"

    def _post(self, path: str, body: Json, timeout_s: float) -> tuple[int, Json]:
        url = f"http://{netloc(self._settings.host, self.ports.http)}{path}"
        headers = {HTTP_TOKEN_HEADER: self.token}
        answer = fetch("POST", url, timeout_s=timeout_s, data=json.dumps(body).encode(), headers=headers)
        return answer.status, parsed(answer.body or b"{}")


def _get(host: str, port: int, path: str, timeout_s: float) -> tuple[int, bytes]:
    answer = fetch("GET", f"http://{netloc(host, port)}{path}", timeout_s=timeout_s)
    return answer.status, answer.body
