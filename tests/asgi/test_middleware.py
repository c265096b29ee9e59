"""Request ids, the access log, API keys and CORS, through an app in memory."""

from __future__ import annotations

import logging
import re

import httpx
import pytest

from launcher.asgi.config import FrontendConfig
from launcher.asgi.middleware import REQUEST_ID
from tests.api.runners import Scripted, client_of, said

ASK = {"model": "scripted", "prompt": "p", "max_tokens": 4}
PAGE = {"Origin": "http://localhost:3000"}


def scripted() -> Scripted:
    return Scripted([said("ab"), said("c", "length")])


def origin_of(answer: httpx.Response) -> str | None:
    return answer.headers.get("access-control-allow-origin")


@pytest.mark.parametrize("sent", ["abc-123", "550e8400-e29b-41d4-a716-446655440000", "x" * 128])
async def test_a_clients_request_id_is_in_every_answer_and_in_the_log(
    sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("test.ids")
    with caplog.at_level(logging.INFO):
        async with client_of(scripted(), frontend=FrontendConfig("right"), log=log) as client:
            for path, body, key, status in (
                ("/v1/completions", ASK, "right", 200), ("/v1/completions", ASK | {"stream": True}, "right", 200),
                ("/v1/completions", ASK | {"n": 0}, "right", 400), ("/v1/completions", ASK, "wrong", 401),
                ("/v1/nowhere", ASK, "right", 404), ("/v1/completions", ASK | {"model": "other"}, "right", 404),
            ):  # fmt: skip
                headers = {"Authorization": f"Bearer {key}", REQUEST_ID: sent}
                answer = await client.post(path, json=body, headers=headers)
                assert (answer.status_code, answer.headers.get_list(REQUEST_ID)) == (status, [sent])
    found = [getattr(record, "request_id", None) for record in caplog.records if record.name == "test.ids"]
    assert found == [sent] * 6


@pytest.mark.parametrize("sent", ["", "a b", "é", "x" * 129, "x" * 10**5, "a\tb"])
async def test_an_id_that_cannot_stand_in_a_log_is_replaced_and_each_request_has_its_own(sent: str) -> None:
    async with client_of(scripted()) as client:
        ids = {
            (await client.get("/health", headers={REQUEST_ID.encode(): sent.encode()})).headers[REQUEST_ID]
            for _ in range(3)
        }
    assert len(ids) == 3
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", id) for id in ids)


async def test_a_fault_of_ours_has_its_id_too() -> None:
    async with client_of(Scripted([RuntimeError("x")])) as client:
        answer = await client.post("/v1/completions", json=ASK, headers={REQUEST_ID: "mine"})
    assert (answer.status_code, answer.headers[REQUEST_ID]) == (500, "mine")


async def test_what_is_logged_of_a_path_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test.paths")
    with caplog.at_level(logging.INFO):
        async with client_of(scripted(), log=log) as client:
            for path in ("/a%0d%0aFAKE%1b[31m", "/" + "x" * 5000):
                answer = await client.get(path)
                assert answer.status_code == 404
                assert len(answer.text) < 500
    for record in (record for record in caplog.records if record.name == "test.paths"):
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 300


async def test_no_page_of_a_browser_may_call_unless_told() -> None:
    preflight = PAGE | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with client_of(scripted()) as client:
        assert origin_of(await client.get("/v1/models", headers=PAGE)) is None
        answer = await client.options("/v1/completions", headers=preflight)
        assert (answer.status_code, origin_of(answer)) == (405, None)


@pytest.mark.parametrize("origins", [("http://localhost:3000",), ("http://other", "http://localhost:3000"), ("*",)])
async def test_a_page_that_may_call_is_told_so_before_and_with_every_answer(origins: tuple[str, ...]) -> None:
    expected = "*" if origins == ("*",) else PAGE["Origin"]
    preflight = PAGE | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    async with client_of(scripted(), frontend=FrontendConfig("right", cors_origins=origins)) as client:
        answer = await client.options("/v1/completions", headers=preflight)
        assert (answer.status_code, origin_of(answer)) == (200, expected)
        assert answer.headers.get_list(REQUEST_ID)[0].startswith("req_")
        assert "authorization" in answer.headers["access-control-allow-headers"]
        for key, body, status in (("right", ASK, 200), ("right", ASK | {"stream": True}, 200), ("wrong", ASK, 401),
                                  ("right", ASK | {"n": 0}, 400)):  # fmt: skip
            answer = await client.post("/v1/completions", json=body, headers=PAGE | {"Authorization": f"Bearer {key}"})
            assert (answer.status_code, origin_of(answer)) == (status, expected)
            assert REQUEST_ID in answer.headers["access-control-expose-headers"].lower()


async def test_another_page_may_not_call() -> None:
    async with client_of(scripted(), frontend=FrontendConfig(cors_origins=("http://localhost:3000",))) as client:
        for origin in ("http://evil", "http://localhost:3001", "https://localhost:3000", "null"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST", REQUEST_ID: "mine"}
            refused = await client.options("/v1/completions", headers=asked)
            assert (refused.status_code, refused.headers.get_list(REQUEST_ID)) == (400, ["mine"])
            assert refused.json()["error"]["code"] == "cors_refused"
            assert origin in refused.json()["error"]["message"]
            assert (origin_of(refused), "Origin" in refused.headers["vary"]) == (None, True)
            assert origin_of(await client.get("/v1/models", headers={"Origin": origin})) is None


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("right", 401),
        ("Bearer", 401),
        ("Bearer rightx", 401),
        ("Bearer ключ", 401),
        ("Bearer right", 200),
    ],
)
async def test_only_the_right_key_is_let_in(header: str | None, status: int) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    async with client_of(Scripted([said("a", "length")]), frontend=FrontendConfig("right")) as client:
        answer = await client.get("/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_checks_need_no_key() -> None:
    async with client_of(Scripted([said("a", "length")]), frontend=FrontendConfig("right")) as client:
        assert [(await client.get(path)).status_code for path in ("/health", "/health/", "/ready")] == [200] * 3


async def test_every_other_route_needs_it() -> None:
    async with client_of(Scripted([]), frontend=FrontendConfig("right")) as client:
        for path in ("/metrics", "/tokenizer_info", "/v1/models/", "/openapi.json", "/nowhere"):
            assert (await client.get(path)).status_code == 401
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/reference_logprobs"):
            assert (await client.post(path, json={})).status_code == 401
