"""One Triton: a process that is started, asked whether it works, and killed."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import secrets
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import uvloop

from launcher.backends.pytriton.link import MODEL
from launcher.backends.pytriton.ports import Ports
from launcher.backends.pytriton.served import Served
from launcher.backends.pytriton.workspace import kill, processes, running, wait_for
from launcher.core import Json

HTTP_TOKEN_HEADER = "triton-access-token"
ADMIN = ("shared-memory", "model-repository", "statistics", "trace", "logging")
"""What Triton does only for who has the token; with an API key, inference too."""
PROGRAM = "tritonserver"
LOOK_S = 0.1
UNSEEN_S = 5.0
"""A Triton that has no process for so long has crashed before anybody saw it."""
CLEAN_S = 5.0
UNSTARTED_S = 1.0
"""How long a thread that is about to start a Triton must be expected to do so."""


@dataclass(frozen=True)
class Settings:
    """What stays the same from one Triton to the next.

    ``guarded`` asks for the token for inference, too. ``announcement`` is the file that says where Triton answers.
    """

    host: str
    gpus: bool
    guarded: bool
    announcement: Path
    log_file: Path


class Server:
    """One Triton with its Python stub, which run from ``folder``. A dead one cannot be started again.

    Each has a name and an access token of its own: what PyTriton still does for a dead one must not reach the next one,
    which may listen on the same ports.
    """

    def __init__(self, settings: Settings, ports: Ports, folder: Path, served: Served) -> None:
        self.ports = ports
        self.token = secrets.token_urlsafe(32)
        self._id = f"launcher-{secrets.token_hex(8)}"
        self._settings = settings
        self._folder = folder
        self._served = served
        self._thread = threading.Thread(target=self._host, name="triton-host", daemon=True)
        self._changed = threading.Condition()
        self._made = False
        self._started = False
        self._ended = False
        self._error: str | None = None
        self._pids: list[int] = []

    def start(self) -> None:
        """Begin to start, in a thread of its own: Triton gets SIGTERM when the thread ends that started it."""
        self._thread.start()

    def wait(self, timeout_s: float) -> str | None:
        """Wait until Triton listens; return why it does not, or None.

        What counts is the server itself: a stub may outlive a server that died while it started it.
        """
        deadline, seen, unseen = time.monotonic() + timeout_s, False, 0.0
        while not self._settled(LOOK_S):
            here = bool(processes(self._folder, PROGRAM))
            unseen = unseen + LOOK_S if self._made and not here else 0.0
            if (seen and not here) or unseen > UNSEEN_S:
                return "it died while starting"
            seen = here
            if time.monotonic() > deadline:
                return f"it did not start within {timeout_s:g} s"
        self._pids = processes(self._folder)
        return self._error or self.lost()

    def _settled(self, timeout_s: float) -> bool:
        """Wait until it is known how the start ended; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._started or self._ended or self._error is not None, timeout_s)

    def lost(self) -> str | None:
        """Return which process has died, or None."""
        if not self._pids:
            return "its processes are gone"
        dead = [pid for pid in self._pids if not running(pid)]
        return f"process {dead[0]} died" if dead else None

    def ask(self, timeout_s: float, **body: Json) -> str | None:
        """Make an inference over HTTP; return what is wrong, or None."""
        try:
            status, answer = self._post(f"/v2/models/{MODEL}/generate", body, timeout_s)
        except (OSError, HTTPException, ValueError) as error:
            return str(error) or type(error).__name__
        if status != 200 or "error" in answer:
            return str(answer.get("error", f"HTTP {status}")).strip().rpartition("\n")[2]
        return None

    def metrics(self, timeout_s: float = 2.0) -> bytes:
        """Return what Triton counts, in Prometheus' text format; nothing if it does not answer."""
        try:
            return _get(self._settings.host, self.ports.metrics, "/metrics", timeout_s)
        except (OSError, HTTPException):
            return b""

    def stop(self) -> None:
        """Kill Triton at once, since nobody has a request under way any more; then let PyTriton end its threads.

        Triton's own way takes four seconds, and may leave its stub and its shared memory. A thread of PyTriton that is
        stuck is left behind: it waits two minutes for a server that died while starting.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        wait_for(self._cleared, CLEAN_S if self._started else UNSTARTED_S)

    def _cleared(self) -> bool:
        kill(self._folder)
        return not (self._folder.exists() if self._started else self._thread.is_alive())

    def _host(self) -> None:
        triton = None
        try:
            with environment(), fast_loops():
                triton = self._bound()
                atexit.unregister(triton.stop)  # it would wait for a start that failed; ours is certain
                self._made = True
                if not self._ended:
                    triton.run()
            self._note(started=True, error=self._foreign())
        except Exception as error:
            self._note(error=f"{type(error).__name__}: {error}")
        with self._changed:
            self._changed.wait_for(lambda: self._ended)
        if triton is not None:
            with suppress(Exception):  # the process is dead already, what is left are threads
                triton.stop()

    def _note(self, *, started: bool = False, error: str | None = None) -> None:
        with self._changed:
            self._started, self._error = started, error
            self._changed.notify_all()

    def _foreign(self) -> str | None:
        """Return what is wrong if another server answers on our port."""
        name = json.loads(_get(self._settings.host, self.ports.http, "/v2", 5.0))["name"]
        return None if name == self._id else f"another Triton ({name}) answers on port {self.ports.http}"

    def _bound(self) -> Any:
        from pytriton.model_config import ModelConfig
        from pytriton.triton import Triton, TritonLifecyclePolicy, TritonSecurityConfig

        restricted = [*ADMIN, "inference"] if self._settings.guarded else [*ADMIN]
        triton = Triton(
            config=_config(self._settings, self.ports, self._id),
            workspace=self._folder,
            triton_lifecycle_policy=TritonLifecyclePolicy(launch_triton_on_startup=True, local_model_store=True),
            security_config=TritonSecurityConfig(self.token, restricted),
        )
        inputs, outputs = interface()
        settings = ModelConfig(batching=False, decoupled=True)
        triton.bind(MODEL, self._served.answer, inputs=inputs, outputs=outputs, config=settings)
        return triton

    def _post(self, path: str, body: Json, timeout_s: float) -> tuple[int, Json]:
        connection = HTTPConnection(self._settings.host, self.ports.http, timeout=timeout_s)
        try:
            headers = {"Content-Type": "application/json", HTTP_TOKEN_HEADER: self.token}
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()


def _get(host: str, port: int, path: str, timeout_s: float) -> bytes:
    connection = HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _config(settings: Settings, ports: Ports, id: str) -> Any:
    from pytriton.triton import TritonConfig

    return TritonConfig(
        id=id,
        http_address=settings.host,
        http_port=ports.http,
        grpc_address=settings.host,
        grpc_port=ports.grpc,
        metrics_address=settings.host,
        metrics_port=ports.metrics,
        log_file=settings.log_file,
        allow_gpu_metrics=settings.gpus,
    )


def interface() -> tuple[list[Any], list[Any]]:
    """Return the tensors of the model ``generate``, as documented in docs/pytriton.md."""
    import numpy as np
    from pytriton.model_config import Tensor

    inputs = [
        Tensor(name="tokens", dtype=np.int32, shape=(-1,), optional=True),
        Tensor(name="text", dtype=bytes, shape=(1,), optional=True),
        Tensor(name="sampling", dtype=bytes, shape=(1,), optional=True),
        Tensor(name="batch", dtype=np.uint8, shape=(-1,), optional=True),
    ]
    outputs = [
        Tensor(name="tokens", dtype=np.int32, shape=(-1,)),
        Tensor(name="text", dtype=bytes, shape=(1,)),
        Tensor(name="finish", dtype=bytes, shape=(1,)),
        Tensor(name="feed", dtype=np.uint8, shape=(-1,)),
    ]
    for prefix in ("", "prompt_"):
        outputs += [
            Tensor(name=f"{prefix}logprobs", dtype=np.float64, shape=(-1,)),
            Tensor(name=f"{prefix}top_tokens", dtype=np.int32, shape=(-1, -1)),
            Tensor(name=f"{prefix}top_logprobs", dtype=np.float64, shape=(-1, -1)),
        ]
    return inputs, outputs


@contextmanager
def environment() -> Iterator[None]:
    """Set, while Triton starts, what its Python stub needs.

    The stub must find the libpython of this interpreter: with the system's, another version of the same, it dies.
    Without the tensor store of PyTriton a request takes half the CPU time, and two processes fewer.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # PyTriton forks only to execute
    libraries = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    wanted = {"LD_LIBRARY_PATH": ":".join(filter(None, libraries)), "PYTRITON_NO_TENSORSTORE": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def fast_loops() -> Iterator[None]:
    """Give the threads that PyTriton starts meanwhile uvloop's event loops: a message costs a quarter less CPU time."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
