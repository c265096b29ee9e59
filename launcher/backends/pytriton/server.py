"""One Triton: a process that is started, probed and killed."""

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
from launcher.core.errors import HttpError
from launcher.core.http import fetch, netloc, parsed
from launcher.core.logs import LogFile, OutputLog, captured, event_of
from launcher.core.types import Json

HTTP_TOKEN_HEADER = "triton-access-token"
ADMIN = ("shared-memory", "model-repository", "statistics", "trace", "logging")
"""The protocols of Triton that require the token; with an API key, inference too."""
POLL_INTERVAL_S = 0.05
FAILURE = re.compile(r'^E\d{4} .*\] "(failed to load .*?)(?:\\n|"?$)', re.MULTILINE)
QUOTED_CHARACTERS = 300
RESPONSE_TIMEOUT_S = 5.0
LAST_WORDS_S = 2.0
"""How long the last lines of a Triton that has ended may take to its log."""
SHARED_MEMORY_BYTES, GROWTH_BYTES = 4 << 20, 1 << 20
"""The initial size and the growth of the memory that Triton shares with its Python stub; the default is 64 MiB."""


@dataclass(frozen=True)
class ServerSettings:
    """The settings that all Tritons of one server share.

    With ``token_required``, inference requires the access token, too. ``connection_file`` is the file with Triton's
    addresses, ``engine`` the socket at which its model reaches the engine.
    """

    host: str
    gpus: bool
    token_required: bool
    connection_file: Path
    log_file: Path
    engine: Path


class Server:
    """One Triton with its Python stub, which run from ``folder``. It can be started once.

    Each has its own name and access token: requests for a dead Triton must not reach the next one at the same ports.
    """

    def __init__(self, settings: ServerSettings, ports: Ports, folder: Path) -> None:
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
        self._writer: OutputLog | None = None
        self._logged = 0

    def start(self) -> None:
        """Start the process, unless `stop` was called before. Raises `OSError`."""
        log, env = LogFile(self._settings.log_file, "triton"), environment(self._folder)
        with self._guard, captured(log, env | {"TRITON_ACCESS_TOKEN": self.token}) as (output, self._writer):
            if self._stopped:
                return
            self._logged = log.path.stat().st_size
            install(self._folder, self._settings.engine)
            self._process = subprocess.Popen(
                [program(self._folder), *self._options()],
                cwd=self._folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only the launcher
                umask=0o077,
            )

    def wait(self, timeout_s: float) -> str | None:
        """Wait until Triton and its model are ready; return why they are not, or None."""
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            self._close_memory()
            if self._process is None or self._process.poll() is not None:
                return f"it died during its start{self._reason()}"
            if time.monotonic() > deadline:
                return f"it did not start within {timeout_s:g} s"
            time.sleep(POLL_INTERVAL_S)
        self._close_memory()
        self._pids = processes.started_from(self._folder)
        return self._wrong_server() or self.lost()

    def _close_memory(self) -> None:
        """Remove other users' access to the memory that Triton shares with its stub: prompts pass through it.

        Triton makes it readable for every user, despite its umask, and has no option for that.
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
        """Send an inference request over HTTP; return the error, or None."""
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
        """Return Triton's metrics in Prometheus' text format; empty if it does not answer."""
        try:
            return _get(self._settings.host, self.ports.metrics, "/metrics", timeout_s)[1]
        except HttpError:
            return b""

    def stop(self) -> None:
        """Kill Triton at once, when no request is open any more: its own shutdown takes seconds."""
        with self._guard:
            self._stopped = True
        Leftovers(os.fspath(self._folder), shared_memory=self._memory).remove()
        if self._process is not None:
            self._process.wait()

    def _reason(self) -> str:
        """Return the error that this Triton has logged about a model that it could not load."""
        if self._writer is not None:
            self._writer.join(LAST_WORDS_S)
        if not self._settings.log_file.exists():
            return ""
        with self._settings.log_file.open("rb") as log:
            log.seek(self._logged)
            said = "\n".join(map(event_of, log))
        found = FAILURE.search(said)
        return f": {found[1][:QUOTED_CHARACTERS]}" if found else ""

    def _ready(self) -> bool:
        try:
            return _get(self._settings.host, self.ports.http, "/v2/health/ready", POLL_INTERVAL_S)[0] == 200
        except HttpError:
            return False

    def _wrong_server(self) -> str | None:
        """Return the error if another server, or none, answers at Triton's port."""
        try:
            sink = parsed(_get(self._settings.host, self.ports.http, "/v2", RESPONSE_TIMEOUT_S)[1])
        except HttpError as error:
            return f"it stopped answering: {error.reason}"
        except ValueError:
            sink = None
        name = sink.get("name", "nameless") if isinstance(sink, dict) else "no Triton"
        return None if name == self._id else f"another server ({name}) answers on port {self.ports.http}"

    def _options(self) -> Iterator[str]:
        settings, ports = self._settings, self.ports
        token_required = ",".join((*ADMIN, "inference") if settings.token_required else ADMIN)
        yield f"--id={self._id}"
        yield f"--model-repository={models(self._folder)}"
        yield f"--backend-directory={backends(self._folder)}"
        yield "--model-control-mode=explicit"
        yield "--load-model=*"
        for name, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics)):
            yield f"--{name}-address={_address(name, settings.host)}"
            yield f"--{name}-port={port}"
        yield f"--http-restricted-api={token_required}:{HTTP_TOKEN_HEADER}={self.token}"
        yield f"--grpc-restricted-protocol={token_required}:{HTTP_TOKEN_HEADER}={self.token}"
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


def _address(protocol: str, host: str) -> str:
    """Return ``host`` as the server of ``protocol`` expects it: gRPC, or libevhtp for HTTP and metrics."""
    if ":" not in host:
        return host
    return f"[{host}]" if protocol == "grpc" else f"ipv6:{host}"
