from __future__ import annotations

import openai

from tests.api.contract.conftest import Api


async def test_the_served_model_is_listed(sdk: openai.AsyncOpenAI, api: Api) -> None:
    assert [model.id async for model in sdk.models.list()] == [api.endpoint.model]
    assert (await sdk.models.retrieve(api.endpoint.model)).id == api.endpoint.model
    assert (await api.http.get("/v1/models/")).status_code == 200


async def test_live_and_ready(api: Api) -> None:
    for path in ("/health", "/health/", "/ready", "/ready/"):
        answer = await api.http.get(path)
        assert answer.status_code == 200
        assert not answer.history


async def test_ready_means_that_a_token_was_produced(api: Api) -> None:
    assert (await api.http.get("/ready")).json()["status"] == "ready"
    assert (await api.state())["generated_tokens"] >= 1


async def test_metrics_count_tokens(api: Api) -> None:
    await api.complete(max_tokens=1)  # an idle server may be about to ask itself for a token
    before = await api.state()
    await api.complete(max_tokens=5, ignore_eos=True)
    after = await api.state()
    assert after["generated_tokens"] - before["generated_tokens"] == 5
    text = (await api.http.get("/metrics")).text
    assert f"launcher_engine_generated_tokens_total {float(after['generated_tokens'])}" in text


async def test_a_request_has_a_name_whatever_becomes_of_it(api: Api) -> None:
    """Also: HEAD, and a body that is packed, on every backend."""
    for method, path, status in (("GET", "/v1/models", 200), ("HEAD", "/health", 200), ("HEAD", "/v1/models", 200),
                                 ("GET", "/v1/nothing", 404)):  # fmt: skip
        answer = await api.http.request(method, path, headers={"x-request-id": "mine"})
        assert (answer.status_code, answer.headers.get_list("x-request-id")) == (status, ["mine"])
    packed = await api.http.post("/v1/completions", content=b"x", headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 415
    assert packed.headers["x-request-id"]
