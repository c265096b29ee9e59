"""One replica: an engine with the OpenAI API on its own port, in a process that Ray Serve restarts."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from multiprocessing import AuthenticationError

from launcher.asgi.config import Limits
from launcher.backends.ray.driver_config import DriverConfig
from launcher.backends.ray.heartbeat import HEARTBEAT_INTERVAL_S, Address, HeartbeatClient
from launcher.backends.ray.shared_secret import SharedSecret
from launcher.core.errors import UserError
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json
from launcher.distributed.allocation import LOOPBACK, allocate
from launcher.engines.base import AsyncEngine

PROXY_HEADER_BYTES, PROXY_HEADERS = 4096, 8
CONNECT_TIMEOUT_S = 5.0
"""How long a new replica tries to reach the driver."""


class Replica:
    """A Serve deployment. Registered once it serves; exits when the engine fails.

    A replica that ran on with a failed engine would answer fastest, with errors, and so attract the requests.
    """

    def __init__(self, address: Address, key: bytes) -> None:
        self._exit_stack = ExitStack()
        self._heartbeat: HeartbeatClient | None = None
        _listen_on_loopback()
        heartbeat = _heartbeat(address, key)
        try:
            self._runner = self._serve(heartbeat.config, heartbeat)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            heartbeat.send({"kind": "failed", "reason": reason})
            self._exit_stack.close()
            raise
        self._heartbeat = heartbeat
        threading.Thread(target=self._report, args=(heartbeat,), name="heartbeat", daemon=True).start()

    def __del__(self) -> None:
        """Report to the driver that Serve stops this replica; the driver closes the connection once it is idle."""
        if self._heartbeat is not None:
            self._heartbeat.send({"kind": "leaving"})
            threading.Event().wait()

    def check_health(self) -> None:
        """Raise `RuntimeError` if Serve must replace this replica."""
        error = self._runner.state().error
        if error is not None:
            raise RuntimeError(error)

    def _serve(self, config: DriverConfig, heartbeat: HeartbeatClient) -> AsyncEngine:
        from launcher.api.app import create_app
        from launcher.asgi.server import bind, server_log, serving

        os.chdir(config.working_folder)
        d, timeouts, enter = config.deployment, config.timeouts, self._exit_stack.enter_context
        alone = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
        allocation = replace(allocate(alone), cpus=max(1, int(config.share.cpus)))
        who = identity()
        # HAProxy runs on the driver's node: a replica there listens on loopback.
        bound = enter(bind(LOOPBACK if who["node"] == config.host else who["node"], 0))
        log = enter(server_log(RunFolder(d.folder).of_replica(who["id"]), f"replica-{who['id']}"))
        runner = enter(d.engine.load(replace(d, replica=who["id"]), allocation))
        app = create_app(runner, frontend=config.frontend, ready_timeout_s=timeouts.start_s, log=log)
        host, port = bound.getsockname()[:2]
        enter(
            serving(
                SharedSecret(app, config.secret),
                bound,
                log,
                timeouts.stop_s,
                with_proxy_headers(config.frontend.limits),
            )
        )
        heartbeat.send({"kind": "ready", **who, "host": host, "port": port, "model": runner.model})
        return runner

    def _report(self, heartbeat: HeartbeatClient) -> None:
        """Send the engine's state until the engine fails or the driver exits; then exit."""
        try:
            while (state := self._runner.state()).error is None:
                heartbeat.send({"kind": "state", "state": asdict(state)})
                if heartbeat.disconnected(HEARTBEAT_INTERVAL_S):
                    break
            heartbeat.send({"kind": "failed", "reason": state.error or "the driver has exited"})
        finally:
            os._exit(1)


def _listen_on_loopback() -> None:
    """Bind Serve's server for calls between deployments to loopback, instead of all addresses.

    It unpickles what it receives, and this program does not use it. Serve has no option for its address, and starts it
    when this class is created.
    """
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", LOOPBACK))


def with_proxy_headers(limits: Limits) -> Limits:
    """Return the limits of a client, increased by the headers that HAProxy adds."""
    return replace(
        limits, header_bytes=limits.header_bytes + PROXY_HEADER_BYTES, headers=limits.headers + PROXY_HEADERS
    )


def _heartbeat(address: Address, key: bytes) -> HeartbeatClient:
    """Connect to the driver. Without one, delete the application: it would stay in an existing Ray indefinitely."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return HeartbeatClient(address, key)
        except (OSError, EOFError, AuthenticationError):
            if time.monotonic() > deadline:
                _delete_own_application()
                raise
        time.sleep(HEARTBEAT_INTERVAL_S)


def _delete_own_application() -> None:
    """Delete the Serve application that this replica belongs to."""
    from ray import serve

    serve.delete(serve.get_replica_context().app_name, _blocking=False)


def identity() -> dict[str, Json]:
    """Return this replica's id in Serve, its process, and the address and the id of its node."""
    import ray
    from ray import serve

    context = serve.get_replica_context()
    return {
        "id": context.replica_id.unique_id,
        "pid": os.getpid(),
        "node": ray.util.get_node_ip_address(),
        "node_id": ray.get_runtime_context().get_node_id(),
    }
