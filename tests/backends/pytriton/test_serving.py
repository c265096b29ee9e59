"""One server: what clients see of Triton, and of a full or a failing engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc.aio as triton

from launcher.backends.pytriton import PyTriton
from launcher.core.cleanup import SHARED_MEMORY
from launcher.core.processes import wait_for
from tests.backends.ipv6 import has_ipv6
from tests.backends.pytriton.troubled import start

ROOT = Path(__file__).parents[3]


def kserve(server: Any, path: str, body: dict[str, object] | None = None) -> httpx.Response:
    url = f"http://{server.triton['http']}{path}"
    with httpx.Client(trust_env=False, timeout=60) as http:
        return http.get(url) if body is None else http.post(url, json=body)


def generate(server: Any, **body: object) -> httpx.Response:
    return kserve(server, "/v2/models/generate/generate", {"temperature": 0} | body)


def test_health_and_metadata_are_tritons_own(server: Any) -> None:
    assert kserve(server, "/v2/health/ready").status_code == 200
    metadata = kserve(server, "/v2/models/generate").json()
    assert {"tokens", "text", "sampling", "batch"} == {tensor["name"] for tensor in metadata["inputs"]}
    documented = (ROOT / "docs" / "pytriton.md").read_text()
    for tensor in metadata["inputs"] + metadata["outputs"]:
        assert f"`{tensor['name']}`" in documented
        assert tensor["datatype"] in documented


def test_other_users_and_other_hosts_reach_nothing_of_triton(server: Any, temporary: Path) -> None:
    """Prompts and answers go through its shared memory, and the socket of the engine takes requests without a key."""
    memory = list(SHARED_MEMORY.glob(f"launcher-{os.getpid()}-*"))
    sockets = [path for path in temporary.rglob("*.sock") if path.is_socket()]
    assert memory
    assert sockets
    open_to_others = [path for path in (*memory, *sockets) if path.stat().st_mode & 0o077]
    assert not open_to_others
    children = psutil.Process().children(recursive=True)
    listening = {c.laddr.ip for p in children for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_generation_over_kserve_http(server: Any) -> None:
    answer = generate(server, text="abc", max_tokens=1, logprobs=1, prompt_logprobs=0).json()
    assert answer["tokens"] == 97
    assert answer["finish"] == "length"
    assert answer["top_tokens"] == 97
    assert len(answer["prompt_logprobs"]) == 2


def test_streaming_over_kserve_http(server: Any) -> None:
    text = kserve(server, "/v2/models/generate/generate_stream", {"text": "hé", "temperature": 0}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    assert "".join(event["text"] for event in events) == "hé"
    assert events[-1]["finish"] == "stop"


def test_parameters_may_come_as_a_tensor(server: Any) -> None:
    sampling = {"max_tokens": 1, "temperature": 0.0, "logit_bias": {"98": 50.0}}
    assert generate(server, text="abc", sampling=json.dumps(sampling)).json()["tokens"] == 98


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": "a", "max_token": 1}, "max_token: unknown parameter"),
        ({"text": "a", "tokens": [1]}, "one of the tensors"),
        ({"text": "a", "sampling": "[1"}, "must be a JSON object"),
        ({"tokens": [999]}, "from 0 to 256, got 999"),
        ({"text": "a", "max_tokens": 512}, "context length is 512"),
    ],
)
def test_kserve_says_what_is_wrong_with_a_request(server: Any, body: dict[str, object], said: str) -> None:
    answer = generate(server, **body)
    assert answer.status_code == 400
    (line,) = answer.json()["error"].splitlines()
    assert said in line
    assert "Traceback" not in line


def test_both_protocols_say_the_same(server: Any) -> None:
    ours = server.complete("abc", max_tokens=1, logprobs=2).json()["choices"][0]
    theirs = generate(server, text="abc", max_tokens=1, logprobs=2).json()
    assert ours["logprobs"]["token_logprobs"] == [theirs["logprobs"]]
    assert sorted(ours["logprobs"]["top_logprobs"][0].values()) == sorted(theirs["top_logprobs"])


def test_the_admin_interface_asks_for_the_token(server: Any) -> None:
    assert kserve(server, "/v2/models/generate/stats").status_code == 403
    assert (server.folder / "triton.json").stat().st_mode & 0o077 == 0


def test_tritons_metrics_are_among_ours(server: Any) -> None:
    server.complete("abc")
    text = server.http.get("/metrics").text
    assert 'nv_inference_request_success{model="generate",version="1"}' in text
    assert "launcher_engine_up 1.0" in text
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


def test_the_report_says_where_triton_is(server: Any) -> None:
    facts = server.http.get("/engine").json()["triton"]
    assert facts["grpc"] == server.triton["grpc"]
    assert facts["starts"] == server.triton["starts"]


async def test_a_full_queue_is_429_and_triton_goes_on(server: Any) -> None:
    async with httpx.AsyncClient(base_url=server.endpoint.root, timeout=60, trust_env=False) as http:
        body = {"model": "echo", "prompt": "abc", "max_tokens": 400, "ignore_eos": True, "temperature": 0}
        answers = await asyncio.gather(*[http.post("/v1/completions", json=body) for _ in range(12)])
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert server.complete("abc").status_code == 200


def test_an_exception_fails_one_request_only(server: Any) -> None:
    before = server.http.get("/engine").json()["triton"]["starts"]
    assert server.complete("raise").status_code == 500
    assert "trouble" in generate(server, text="raise", max_tokens=1).json()["error"]
    assert server.complete("abc").json()["choices"][0]["text"] == "abc"
    assert server.http.get("/engine").json()["triton"]["starts"] == before


async def first_over_http(server: Any, told: asyncio.Event) -> None:
    body = {"text": "a", "max_tokens": 500, "ignore_eos": True}
    url = f"http://{server.triton['http']}/v2/models/generate/generate_stream"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http, http.stream("POST", url, json=body) as answer:
        async for _ in answer.aiter_lines():
            told.set()


async def first_over_grpc(server: Any, told: asyncio.Event) -> None:
    async with triton.InferenceServerClient(server.triton["grpc"]) as client:
        answers = client.stream_infer(long("any"))
        try:
            async for _ in answers:
                told.set()
        finally:
            answers.cancel()


@pytest.mark.parametrize("read", [first_over_http, first_over_grpc])
async def test_a_raw_client_that_goes_away_frees_its_slot(server: Any, read: Any) -> None:
    told = asyncio.Event()
    client = asyncio.create_task(read(server, told))
    await told.wait()
    server.engine.stalled = True
    try:
        client.cancel()
        assert server.engine.waiting == 1
        assert await asyncio.to_thread(wait_for, lambda: server.engine.waiting == 0, 10)
    finally:
        server.engine.stalled = False


async def test_so_does_one_that_leaves_before_its_first_token(server: Any) -> None:
    server.engine.stalled = True
    try:
        client = asyncio.create_task(first_over_grpc(server, asyncio.Event()))
        assert await asyncio.to_thread(wait_for, lambda: server.engine.waiting == 1, 10)
        client.cancel()
        assert await asyncio.to_thread(wait_for, lambda: server.engine.waiting == 0, 10)
    finally:
        server.engine.stalled = False


async def long(id: str) -> Any:
    tokens = triton.InferInput("tokens", [1], "INT32")
    tokens.set_data_from_numpy(np.array([97], np.int32))
    asked = {"id": id, "max_tokens": 500, "ignore_eos": True}
    yield {"model_name": "generate", "inputs": [tokens], "parameters": asked}


async def test_a_raw_client_can_abort(server: Any) -> None:
    async with triton.InferenceServerClient(server.triton["grpc"]) as client:
        answers = client.stream_infer(long("long"))
        _, error = await anext(answers)
        assert error is None
        aborted, _ = await anext(client.stream_infer(abort("long")))
        assert aborted.as_numpy("finish").tolist() == [b"aborted"]
        async for _, error in answers:
            if error is not None:
                break
        assert "aborted" in str(error)


async def abort(id: str) -> Any:
    yield {"model_name": "generate", "inputs": [], "parameters": {"abort": id}}


def test_the_example_runs(server: Any) -> None:
    command = [sys.executable, ROOT / "examples" / "triton_client.py", server.folder / "triton.json", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ready: True" in done.stdout
    assert "finish: " in done.stdout


@pytest.mark.parametrize(
    ("field", "value"), [("port", 70000), ("grpc_port", -1), ("probe_timeout_s", 0), ("start_timeout_s", -1)]
)
def test_settings_that_cannot_be_are_named(field: str, value: float) -> None:
    from launcher.core.errors import UserError

    with pytest.raises(UserError, match=f"backend.{field} is {value}; must be"):
        PyTriton(**{field: value})  # type: ignore[arg-type]


def test_triton_and_the_api_listen_on_ipv6(temporary: Path, tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with start(tmp_path / "run", PyTriton(host="::1", triton_host="::1")) as running:
        assert running.endpoint.url.startswith("http://[::1]:")
        assert running.complete("abc").json()["choices"][0]["text"] == "abc"
        assert all(address.startswith("[::1]:") for name, address in running.triton.items() if name in ("http", "grpc"))
        assert running.kserve("a").status_code == 200
        assert "nv_inference_count" in running.http.get("/metrics").text
