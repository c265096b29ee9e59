"""What a server answered to an evaluation, recorded from the real one and replayed where it is not installed.

    VLLM=build/vllm/bin/vllm .venv/bin/python -m tests.backends.transcript

This starts vLLM, evaluates the first samples of the shipped tasks behind it, and writes ``transcripts/vllm.json``. Of
``/metrics`` it keeps the lines that the launcher reads, as they were before the first answer and after the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from launcher.backends.vllm import VLLM
from launcher.core.http import fetch
from tests.backends.presets import CPU, ROOT, deployment
from tests.running import UNVALIDATED

FILE = Path(__file__).parent / "transcripts" / "vllm.json"
SAMPLES = 8
SETTINGS = (f"evaluate.limit={SAMPLES}", "evaluate.concurrency=4", "model=none", UNVALIDATED)
METRICS = ("time_to_first_token_seconds", "time_per_output_token_seconds", "num_requests_running",
           "num_requests_waiting", "inter_token_latency_seconds", "generation_tokens_total")  # fmt: skip
Answer = dict[str, Any]
Asked = Callable[[str, str, str], Answer]
"""Answers a method, a path and a body with ``status``, ``type`` and ``body``."""


def key(method: str, path: str, body: str) -> str:
    """Return what names a request in any order of its fields."""
    return f"{method} {path} {json.dumps(json.loads(body), sort_keys=True)}" if body else f"{method} {path}"


@contextmanager
def asked(answer: Asked) -> Iterator[str]:
    """Serve on loopback; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            found = answer(self.command, self.path, body)
            data = found["body"].encode()
            self.send_response(found["status"])
            self.send_header("Content-Type", found["type"])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def replayed(recorded: dict[str, Any]) -> Asked:
    """Answer as was recorded; what was never asked gets a 404."""
    answered = threading.Event()

    def answer(method: str, path: str, body: str) -> Answer:
        found = recorded["answers"].get(key(method, path, body))
        if method == "POST" and found:
            answered.set()
        missing = {"status": 404, "type": "application/json", "body": '{"detail":"Not Found"}'}
        return (found[-1] if answered.is_set() else found[0]) if found else missing

    return answer


def recorder(root: str, answers: dict[str, list[Answer]]) -> Asked:
    """Ask the server at ``root``, and keep the first and the last answer to each request."""

    def answer(method: str, path: str, body: str) -> Answer:
        data = body.encode() or None
        headers = {"Content-Type": "application/json"} if body else {}
        said = fetch(method, root + path, timeout_s=600, data=data, headers=headers)
        kind = next((value for name, value in said.headers.items() if name.lower() == "content-type"), "text/plain")
        made = {"status": said.status, "type": kind, "body": _kept(path, said.body.decode())}
        answers.setdefault(key(method, path, body), [])[1:] = [made]
        return made

    return answer


def _kept(path: str, body: str) -> str:
    lines = body.splitlines(keepends=True)
    return "".join(line for line in lines if any(name in line for name in METRICS)) if path == "/metrics" else body


def arguments(url: str, folder: Path) -> list[str]:
    """Return the command line that evaluates the first samples behind a server that runs."""
    return ["backend=external", f"backend.url={url}", f"hydra.run.dir={folder}", *SETTINGS]


def main() -> None:
    program = f"{os.environ['VLLM']} serve"
    answers: dict[str, list[Answer]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        preset = VLLM(program=program, arguments="--enforce-eager --kv-cache-memory-bytes 512M", cache=name)
        with preset.serve(deployment(folder), CPU) as endpoint, asked(recorder(endpoint.root, answers)) as url:
            command = [sys.executable, "launch.py", *arguments(url, folder / "run")]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        text = json.dumps({"server": f"vllm {endpoint.facts['version'].split('+')[0]}", "answers": answers}, indent=1)
        FILE.write_text(text.replace(name, "/models") + "\n")
        print(f"{FILE}: {len(answers)} requests")


if __name__ == "__main__":
    main()
