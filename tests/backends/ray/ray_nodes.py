"""An existing Ray of two nodes on this host, with an application of another user."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.backends import ports
from launcher.core import processes

HEAD, OTHER = "127.0.0.2", "127.0.0.3"
THEIRS = """
import sys
import ray
from ray import serve

ray.init(address=sys.argv[1], log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Theirs:
    def __call__(self, request):
        return "theirs"

serve.run(Theirs.bind(), name="theirs", route_prefix="/")
"""
APPLICATIONS = """
import json, sys
import ray
from ray import serve

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps(sorted(serve.status().applications)))
"""


class Nodes:
    """The two nodes; ``environment`` is that of their clients."""

    def __init__(self, folder: Path) -> None:
        (folder / "token").write_text(secrets.token_hex(32))
        (folder / "token").chmod(0o600)
        given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
        any_port = {"AUTOSCALER_METRIC_PORT": "0", "DASHBOARD_METRIC_PORT": "0", "RAY_raylet_start_wait_time_s": "180"}
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.environment |= given | any_port | {"RAY_memory_monitor_refresh_ms": "0"}
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self.port = ports.free("127.0.0.1")
        self.address = ""

    def start(self) -> None:
        folder = self._folder
        head = ("--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder / 'r'}")
        self._start(HEAD, *head)
        self.address = (folder / "r/ray_current_cluster").read_text().strip()
        self.join(OTHER)
        self.run(THEIRS, str(self.port))

    def join(self, node: str) -> None:
        """Start a node, in place of one that may be left of it."""
        self.end(node)
        self._start(node, f"--address={self.address}", f"--temp-dir={self._folder / node}")

    def _start(self, node: str, *given: str) -> None:
        program = Path(sys.executable).with_name("ray")
        command = [str(program), "start", f"--node-ip-address={node}", "--num-cpus=2", "--object-store-memory=80000000"]
        with (self._folder / f"{node}.log").open("wb") as out:
            self._started[node] = subprocess.Popen(
                [*command, "--block", *given],
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + 200
        while "will now block" not in (log := (self._folder / f"{node}.log").read_text()):
            assert self._started[node].poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)

    def run(self, program: str, *given: str) -> str:
        """Run a program that knows this Ray; return what it prints."""
        command = [sys.executable, "-c", program, self.address, *given]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def applications(self) -> str:
        return self.run(APPLICATIONS).strip()

    def theirs(self) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/", timeout=60) as answer:
            found = answer.read()
        assert isinstance(found, bytes)
        return found

    def close(self) -> None:
        for node in list(self._started):
            self.end(node)

    def end(self, node: str) -> None:
        """Kill all that runs on a node at once, as when it loses its power."""
        if (process := self._started.pop(node, None)) is not None:
            process.kill()
            process.wait()
            processes.kill_session(process.pid)


@contextmanager
def nodes() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        started = Nodes(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.close()
