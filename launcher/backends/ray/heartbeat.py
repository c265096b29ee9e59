"""Heartbeat channel between driver and replicas; it also delivers the replica's configuration.

The end of a connection means that the process at the other end has exited.
"""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

from launcher.backends.ray.driver_config import DriverConfig
from launcher.core.types import Json

HEARTBEAT_INTERVAL_S = 0.5
"""How often a replica sends its state."""
Address = tuple[str, int]


class HeartbeatServer:
    """The driver's side. ``on_connect`` is called with each new connection, in a thread of its own."""

    def __init__(
        self, host: str, key: bytes, config: DriverConfig, on_connect: Callable[[ReplicaConnection], None]
    ) -> None:
        self._listener = Listener((host, 0), authkey=key, backlog=1024)
        self._config = pickle.dumps(config)
        self._on_connect = on_connect

    @property
    def address(self) -> Address:
        host, port = self._listener.address
        return str(host), int(port)

    def start(self) -> None:
        threading.Thread(target=self._accept, name="heartbeat-server", daemon=True).start()

    def _accept(self) -> None:
        while True:
            with suppress(AuthenticationError, EOFError, ConnectionError):
                connection = self._listener.accept()
                connection.send_bytes(self._config)
                threading.Thread(target=self._on_connect, args=(ReplicaConnection(connection),), daemon=True).start()


class ReplicaConnection:
    """The driver's connection to one replica."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self) -> dict[str, Json] | None:
        """Return the next message, or None when the replica has exited."""
        try:
            message = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            return None
        assert isinstance(message, dict)
        return message

    def close(self) -> None:
        """Close the connection; the replica then exits."""
        self._connection.close()


class HeartbeatClient:
    """The replica's side; ``config`` is what the driver sent."""

    def __init__(self, address: Address, key: bytes) -> None:
        self._lock = threading.Lock()
        self._connection = Client(address, authkey=key)
        self.config: DriverConfig = pickle.loads(self._connection.recv_bytes())

    def send(self, message: dict[str, Json]) -> None:
        """Send a message to the driver, from any thread. Raises `OSError` when the driver has exited."""
        with self._lock:
            self._connection.send_bytes(json.dumps(message).encode())

    def disconnected(self, timeout_s: float) -> bool:
        """Return whether the driver exits within ``timeout_s`` seconds; it sends no messages."""
        try:
            return self._connection.poll(timeout_s)
        except OSError:
            return True
