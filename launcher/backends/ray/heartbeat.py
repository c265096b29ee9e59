"""The roll call: each replica keeps a connection to the driver, over which it gets its assignment and says how it is.

When the connection ends, the one at the other end is gone; nobody has to ask.
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

PERIOD_S = 0.5
"""How often a replica says how it is."""
Address = tuple[str, int]


class HeartbeatServer:
    """The driver's side. ``came`` is called with each new connection, in a thread of its own."""

    def __init__(
        self, host: str, key: bytes, assignment: DriverConfig, came: Callable[[ReplicaConnection], None]
    ) -> None:
        self._listener = Listener((host, 0), authkey=key, backlog=1024)
        self._assignment = pickle.dumps(assignment)
        self._came = came

    @property
    def address(self) -> Address:
        host, port = self._listener.address
        return str(host), int(port)

    def start(self) -> None:
        threading.Thread(target=self._accept, name="roll-call", daemon=True).start()

    def _accept(self) -> None:
        while True:
            with suppress(AuthenticationError, EOFError, ConnectionError):
                connection = self._listener.accept()
                connection.send_bytes(self._assignment)
                threading.Thread(target=self._came, args=(ReplicaConnection(connection),), daemon=True).start()


class ReplicaConnection:
    """One replica, as the driver hears it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def hear(self) -> dict[str, Json] | None:
        """Return what the replica says next, or None when it is gone."""
        try:
            heard = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            return None
        assert isinstance(heard, dict)
        return heard

    def let_go(self) -> None:
        """End the connection, on which the replica ends itself."""
        self._connection.close()


class HeartbeatClient:
    """The replica's side."""

    def __init__(self, address: Address, key: bytes) -> None:
        self._guard = threading.Lock()
        self._connection = Client(address, authkey=key)
        self.assignment: DriverConfig = pickle.loads(self._connection.recv_bytes())

    def say(self, message: dict[str, Json]) -> None:
        """Tell the driver, from any thread. Raises `OSError` when it is gone."""
        with self._guard:
            self._connection.send_bytes(json.dumps(message).encode())

    def gone(self, seconds: float) -> bool:
        """Wait, at most so long, for the driver to go away: it never says anything more."""
        try:
            return self._connection.poll(seconds)
        except OSError:
            return True
