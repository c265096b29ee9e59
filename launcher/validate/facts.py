"""What a server of another program says of itself: software, version, type, context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from launcher.core.console import one_line
from launcher.core.errors import TransportError
from launcher.core.types import Json, Response

Get = Callable[[str], Awaitable[Response]]
"""Gets a route below the server's root."""

PLACES: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "version": (
        ("/version", ("version",)),
        ("/get_server_info", ("version",)),
        ("/info", ("version",)),
        ("/props", ("build_info",)),
    ),
    "dtype": (("/get_server_info", ("dtype",)), ("/info", ("model_dtype",)), ("/engine", ("dtype",))),
    "context_length": (
        ("/get_server_info", ("context_length",)),
        ("/info", ("max_total_tokens",)),
        ("/props", ("default_generation_settings", "n_ctx")),
    ),
    "quantization": (("/get_server_info", ("quantization",)), ("/info", ("quantize",))),
    "weights": (
        ("/get_server_info", ("model_path",)),
        ("/info", ("model_id",)),
        ("/props", ("model_path",)),
    ),
}
"""Where vLLM (``/version``), SGLang (``/get_server_info``), TGI (``/info``) and llama.cpp (``/props``) say it."""
SOFTWARE = {
    "/get_server_info": "sglang",
    "/info": "text-generation-inference",
    "/props": "llama.cpp",
    "/version": "vllm",
    "/engine": "launcher",
}
"""Whose route each is."""


async def server_facts(get: Get, model: str, known: Mapping[str, Json]) -> dict[str, Json]:
    """Return what the server says: `engine`, `version`, `dtype`, `context_length` and more; nothing that it does not.

    What is ``known`` of it fills the gaps, and names the software. Never raises: a server need not have these routes.
    """
    found = _listed(await _json(get, "/v1/models"), model)
    bodies = {route: await _json(get, route) for route in SOFTWARE}
    for fact, places in PLACES.items():
        for route, keys in places:
            value = _value(bodies[route], keys)
            if fact not in found and value is not None:
                found[fact] = value
    named = next((SOFTWARE[route] for route, body in bodies.items() if _is_own(route, body)), None)
    said = ({"engine": named} if named and "engine" not in found else {}) | found
    return dict(known) | said | ({"engine": known["engine"]} if "engine" in known else {})


def _is_own(route: str, body: Mapping[str, Json]) -> bool:
    return any(r == route and _value(body, keys) is not None for places in PLACES.values() for r, keys in places)


def _listed(body: Mapping[str, Json], model: str) -> dict[str, Json]:
    """Return the facts in the model's entry of ``/v1/models``."""
    data = body.get("data")
    entries = [entry for entry in data if isinstance(entry, Mapping)] if isinstance(data, list) else []
    entry: Mapping[str, Json] = next((entry for entry in entries if entry.get("id") == model), {})
    meta = entry.get("meta") if isinstance(entry.get("meta"), Mapping) else {}
    facts = {
        "engine": entry.get("owned_by"),
        "context_length": entry.get("max_model_len"),
        "weights": entry.get("root"),
        "parameters": meta.get("n_params") if isinstance(meta, Mapping) else None,
    }
    return {name: _short(value) for name, value in facts.items() if _is_plain(value)}


def _value(body: Mapping[str, Json], keys: tuple[str, ...]) -> Json:
    value: Json = body
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return _short(value) if _is_plain(value) else None


def _is_plain(value: Json) -> bool:
    return isinstance(value, str | int | float) and value != "" and not isinstance(value, bool)


def _short(value: Json) -> Json:
    return one_line(value) if isinstance(value, str) else value


async def _json(get: Get, route: str) -> Mapping[str, Json]:
    with suppress(TransportError):
        response = await get(route)
        if response.ok and isinstance(response.body, Mapping):
            return response.body
    return {}
