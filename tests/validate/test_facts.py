"""What servers of other programs say of themselves is in the results, and nothing that they do not say."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.core.errors import TransportError
from launcher.core.types import Response
from launcher.validate.facts import server_facts

MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}
VLLM = {
    "/version": {"version": "0.32.0"},
    "/v1/models": {"data": [{"id": "m", "owned_by": "vllm", "root": "org/m", "max_model_len": 2048}]},
}
SGLANG = {
    "/get_server_info": {"version": "0.5.6", "dtype": "bfloat16", "context_length": 4096, "quantization": None},
    "/v1/models": MODELS,
}
LLAMA = {
    "/props": {"build_info": "b7000-abc", "model_path": "m.gguf", "default_generation_settings": {"n_ctx": 8192}},
    "/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_params": 7}}]},
}
TGI = {"/info": {"version": "3.3", "model_dtype": "float16", "model_id": "org/m", "max_total_tokens": 4096}}


OURS = {
    "/engine": {"dtype": "bf16", "parameters": 7},
    "/v1/models": {"data": [{"id": "m", "owned_by": "launcher", "max_model_len": 256}]},
}


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (OURS, {"engine": "launcher", "dtype": "bf16", "context_length": 256}),
        (VLLM, {"engine": "vllm", "version": "0.32.0", "context_length": 2048, "weights": "org/m"}),
        (SGLANG, {"engine": "sglang", "version": "0.5.6", "dtype": "bfloat16", "context_length": 4096}),
        (
            LLAMA,
            {
                "engine": "llamacpp",
                "version": "b7000-abc",
                "context_length": 8192,
                "weights": "m.gguf",
                "parameters": 7,
            },
        ),
        (
            TGI,
            {
                "engine": "text-generation-inference",
                "version": "3.3",
                "dtype": "float16",
                "context_length": 4096,
                "weights": "org/m",
            },
        ),
        ({"/v1/models": MODELS}, {}),
        ({}, {}),
        ({"/version": [1], "/v1/models": {"data": 7}, "/props": {"default_generation_settings": []}}, {}),
    ],
)
async def test_facts_come_from_where_each_server_says_them(routes: dict[str, Any], expected: dict[str, Any]) -> None:
    async def get(route: str) -> Response:
        return Response(200, routes[route]) if route in routes else Response(404, {"error": "no"})

    assert await server_facts(get, "m", {}) == expected


async def test_a_server_that_breaks_the_connection_says_nothing() -> None:
    async def get(route: str) -> Response:
        raise TransportError("gone")

    assert await server_facts(get, "m", {}) == {}
