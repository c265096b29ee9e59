from __future__ import annotations

import pytest

from launcher.asgi.config import FrontendConfig
from tests.api.runners import Scripted, client_of, said


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
