"""Until its certificate is valid, an endpoint answers only the validator."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launcher.backends.inline import Inline
from launcher.core.admission import RETRY_AFTER_S, Admission
from launcher.core.event_loop import run_async
from launcher.core.types import VALIDATOR_HEADER, Endpoint
from launcher.distributed.allocation import allocate
from launcher.engines.base import Deployment
from launcher.engines.echo import Echo
from launcher.settings.model import Model, Optimizations, Parallelism
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.running import program

ROOT = Path(__file__).parents[2]
ROUTES = ("/v1/models", "/v1/models/m", "/ready", "/engine", "/tokenizer_info", "/openapi.json", "/nothing")
KEY = "PRECISION_TEST_KEY"


@pytest.fixture
def admission() -> Admission:
    return Admission()


@pytest.fixture(params=[None, KEY], ids=["no key", "key"])
def endpoint(
    request: pytest.FixtureRequest, tmp_path: Path, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Endpoint]:
    """Yield a server that waits for its certificate, with and without an API key."""
    monkeypatch.setenv(KEY, "right")
    deployment = Deployment(Model("m"), Echo(), Parallelism(), Optimizations(), tmp_path, admission)
    with Inline(api_key_env=request.param).serve(deployment, allocate()) as found:
        yield found


def client(endpoint: Endpoint, **headers: str) -> httpx.Client:
    key = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    return httpx.Client(base_url=endpoint.root, headers=key | headers, trust_env=False, timeout=60)


def test_everybody_else_is_told_to_wait(endpoint: Endpoint) -> None:
    body = {"model": "m", "prompt": "a", "max_tokens": 1}
    for headers in ({}, {VALIDATOR_HEADER: "guessed"}, {VALIDATOR_HEADER: ""}):
        with client(endpoint, **headers) as http:
            answers = [http.get(route) for route in ROUTES]
            answers += [http.post("/v1/completions", json=body), http.request("DELETE", "/v1/models")]
        for answer in answers:
            assert answer.status_code == 503, answer.url
            assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
            assert answer.json()["error"]["code"] == "not_certified"


def test_health_and_metrics_answer_all_the_time(endpoint: Endpoint) -> None:
    with client(endpoint) as http:
        assert http.get("/health").json()["status"] == "live"
        assert http.get("/health/").status_code == 200
        assert http.get("/metrics").status_code == 200


def test_the_validator_gets_in_with_its_token_and_everybody_once_it_is_open(
    endpoint: Endpoint, admission: Admission
) -> None:
    assert endpoint.validator_token is not None
    checks = run_async(certificate.validate(endpoint, Validate(), frozenset(Capability)))
    assert not certificate.failed(checks)
    with client(endpoint) as http:
        assert http.get("/ready").status_code == 503
        admission.open()
        assert http.get("/ready").status_code == 200
        assert http.post("/v1/completions", json={"model": "m", "prompt": "a"}).status_code == 200


def test_the_token_is_no_key_and_is_shown_nowhere(endpoint: Endpoint, tmp_path: Path) -> None:
    assert endpoint.validator_token is not None
    with httpx.Client(base_url=endpoint.root, trust_env=False) as http:
        answer = http.get("/v1/models", headers=endpoint.validator_headers)
    assert answer.status_code == (200 if endpoint.api_key is None else 401)
    certificate.write((), endpoint, tmp_path)
    assert endpoint.validator_token not in repr(endpoint)
    for file in tmp_path.iterdir():
        assert endpoint.validator_token not in file.read_text(), file


def test_tokens_of_two_runs_differ() -> None:
    assert Admission().token != Admission().token
    assert Admission().token not in repr(Admission())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(folder: Path, port: int, *more: str) -> list[str]:
    given = ["engine=echo", "model=none", f"backend.port={port}", f"hydra.run.dir={folder}", *more]
    return [sys.executable, "-m", "launcher", "mode=serve", *given]


def looks(process: subprocess.Popen[str], url: str) -> Iterator[httpx.Response]:
    """Yield the server's answers, from the first one on, while the program runs."""
    deadline = time.monotonic() + 120
    with httpx.Client(trust_env=False, timeout=30) as http:
        while process.poll() is None:
            assert time.monotonic() < deadline
            try:
                yield http.get(url)
            except httpx.TransportError:
                time.sleep(0.01)


def test_a_run_is_announced_and_answers_after_its_certificate(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "run"
    with program(launch(folder, port, "engine.latency_s=0.3"), ROOT) as process:
        statuses = []
        for answer in looks(process, f"http://127.0.0.1:{port}/v1/models"):
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                break
            assert answer.json()["error"]["code"] == "not_certified"
            early = (folder / "endpoint.json").exists()
            assert not early or (folder / "certificate.json").exists()
        assert 503 in statuses
        assert statuses[-1] == 200
        assert json.loads((folder / "certificate.json").read_text())["valid"] is True


def test_a_run_whose_validation_fails_never_answers_and_is_never_announced(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "run"
    skipped = ",".join(name for name in certificate.NAMES[2:] if name != "completion")
    arguments = launch(folder, port, "engine.latency_s=2", "validate.timeout_s=1", f"validate.skip=[{skipped}]")
    with program(arguments, ROOT) as process:
        statuses = {answer.status_code for answer in looks(process, f"http://127.0.0.1:{port}/v1/models")}
        assert process.wait(60) == 2
        assert statuses == {503}
        assert "serving" not in (process.stdout.read() if process.stdout else "")
    assert not (folder / "endpoint.json").exists()
