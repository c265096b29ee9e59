"""``replicas=auto``: more replicas under load, fewer afterwards, and no request is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher.backends.ray import Ray
from launcher.core.types import Endpoint
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism
from tests.running import UNVALIDATED

pytest.importorskip("ray")
# A start of Ray takes ten seconds, or minutes on a machine that is busy with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]


def ask(url: str, body: bytes | None = None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with opener.open(request, timeout=120) as answer:
        return json.load(answer)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)


@contextmanager
def crowd(endpoint: Endpoint, size: int) -> Iterator[list[str]]:
    """Keep so many requests under way; yield the answers as they come."""
    over, said = threading.Event(), []
    body = json.dumps({"model": endpoint.model, "prompt": "abc", "max_tokens": 20, "temperature": 0}).encode()

    def ask_on() -> None:
        while not over.is_set():
            said.append(ask(f"{endpoint.url}/completions", body)["choices"][0]["text"])

    threads = [threading.Thread(target=ask_on) for _ in range(size)]
    for thread in threads:
        thread.start()
    try:
        yield said
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_replicas_come_and_go_while_an_evaluation_runs(tmp_path: Path) -> None:
    deployment = Deployment(Model("m"), Echo(latency_s=0.2), Parallelism(), Optimizations(), tmp_path / "server")
    backend = Ray(replicas="auto", max_replicas=2, target_requests=6, scale_up_after_s=0.5, scale_down_after_s=2)
    folder = tmp_path / "run"
    with backend.serve(deployment, allocate()) as endpoint:
        health = f"{endpoint.root}/health"
        assert len(ask(health)["replicas"]) == 1
        given = (
            "backend=external",
            f"backend.url={endpoint.url}",
            "tasks=[addition]",
            "evaluate.repeats=900",
            UNVALIDATED,
        )
        command = [sys.executable, str(ROOT / "launch.py"), *given, f"hydra.run.dir={folder}", "evaluate.concurrency=2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path) as process:
            wait_for(lambda: process.poll() is not None or asked(folder))
            with crowd(endpoint, 12) as said:
                wait_for(lambda: len(ask(health)["replicas"]) == 2)
                wait_for(lambda: min(r["generated_tokens"] for r in ask(health)["replicas"]) > 60)
            wait_for(lambda: len(ask(health)["replicas"]) == 1)
            before = asked(folder)
            wait_for(lambda: asked(folder) > before + 4)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        found = ask(health)
    assert [decision["replicas"] for decision in found["scaled"]] == [2, 1]
    assert found["lost"][-1]["reason"] == "it was not needed any more"
    assert len(said) > 12
    assert len(set(said)) == 1
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {line["status"] for line in lines} <= {"scored", "truncated", "unparsed"}
    predictions = {(line["id"], line["prediction"]) for line in lines}
    assert len(predictions) == len({line["id"] for line in lines})


def asked(folder: Path) -> int:
    file = folder / "samples.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0
