"""``/openapi.json``: every route with its requests, answers, streams and errors, in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from launcher import __version__
from launcher.api.extra_fields import Fields
from launcher.api.request_schema import Body
from launcher.api.response_schema import ErrorReply
from launcher.asgi.middleware import REQUEST_ID
from launcher.core.types import Json

Endpoint = Callable[[Request], Awaitable[Response]]
JSON, EVENTS = "application/json", "text/event-stream"
REFERENCE = "#/components/schemas/{model}"
KEY = "key"
NULL = {"type": "null"}

ERRORS = {
    400: "A field is wrong or not supported, or the prompt is too long (code `context_length_exceeded`).",
    401: "The API key is missing or wrong.",
    404: "The model is not served (code `model_not_found`); the message lists those that are.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is compressed, or not JSON.",
    429: "The queue is full; `Retry-After` says when to retry.",
    431: "The request's headers are too large.",
    500: "An internal error; the server's log has the details.",
    501: "The engine has no plain forward pass.",
    503: "The engine is stopping, restarting or broken, or does not take requests yet.",
}
ALWAYS = (408, 431, 500, 503)
WITH_BODY = (400, 404, 413, 415)
PAUSED = (429, 503)
"""Statuses with a ``Retry-After``."""


@dataclass(frozen=True)
class Operation:
    """A route. It reads ``body`` and answers ``reply`` as ``media``; ``event`` is one event of a stream.

    ``errors`` are statuses beside those of all routes; an ``open`` route needs no key.
    """

    method: Literal["get", "post"]
    path: str
    endpoint: Endpoint
    reply: type[BaseModel] | None = None
    body: type[Body] | None = None
    event: type[BaseModel] | None = None
    media: str = JSON
    errors: tuple[int, ...] = ()
    open: bool = False

    @property
    def models(self) -> Iterator[tuple[type[BaseModel], Literal["validation", "serialization"]]]:
        if self.body is not None:
            yield self.body, "validation"
        for model in (self.reply, self.event):
            if model is not None:
                yield model, "serialization"


def openapi_document(operations: Sequence[Operation], *, keyed: bool) -> Json:
    """Return the OpenAPI document of a server; a ``keyed`` server requires an API key."""
    paths: dict[str, Json] = {}
    for operation in operations:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method] = _operation(operation, keyed)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nemo-megatron-launcher",
            "version": __version__,
            "description": "OpenAI's API over one served model. Each route answers with a trailing slash, too, and "
            f"each `GET` route to `HEAD`. Every answer has `{REQUEST_ID}`: the client's own, or a new one.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "responses": {str(status): _error(status) for status in ERRORS},
            "headers": {
                REQUEST_ID: {"description": "The name of the request.", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
            },
            "securitySchemes": {KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, keyed: bool) -> dict[str, Json]:
    summary, _, more = (getdoc(operation.endpoint) or "").partition("\n\n")
    found: dict[str, Json] = {
        "operationId": operation.endpoint.__name__,
        "summary": " ".join(summary.split()),
        "responses": _responses(operation, keyed),
        "security": [{KEY: []}] if keyed and not operation.open else [],
    }
    if more:
        found["description"] = " ".join(more.split())
    if "{" in operation.path:
        found["parameters"] = [_parameter(operation.path)]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(JSON, operation.body)}
    return found


def _parameter(path: str) -> dict[str, Json]:
    name = path.partition("{")[2].partition(":")[0]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": "The model's name, which may have slashes.",
        "schema": {"type": "string", "minLength": 1},
    }


def _responses(operation: Operation, keyed: bool) -> dict[str, Json]:
    content: dict[str, Json] = {operation.media: {"schema": {"type": "string"}}}
    if operation.reply is not None:
        content = _content(operation.media, operation.reply)
    if operation.event is not None:
        content |= _content(EVENTS, operation.event)
    ok = {"description": _ok(operation), "headers": _headers(REQUEST_ID), "content": content}
    statuses = {*operation.errors, *ALWAYS, *(WITH_BODY if operation.body else ())}
    statuses |= {401} if keyed and not operation.open else set()
    return {"200": ok} | {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _ok(operation: Operation) -> str:
    if operation.event is None:
        return "The answer."
    return (
        "The answer; with `stream: true` server-sent events, each `data: ` with JSON as described here (or with an "
        "error, which ends the stream), and at last `data: [DONE]`."
    )


def _error(status: int) -> dict[str, Json]:
    names = (REQUEST_ID, "Retry-After") if status in PAUSED else (REQUEST_ID,)
    return {"description": ERRORS[status], "headers": _headers(*names), "content": _content(JSON, ErrorReply)}


def _headers(*names: str) -> dict[str, Json]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _content(media: str, model: type[BaseModel]) -> dict[str, Json]:
    return {media: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}


def _schemas(operations: Iterable[Operation]) -> dict[str, Json]:
    models = {pair: None for operation in operations for pair in operation.models}
    _, found = models_json_schema([*models, (ErrorReply, "serialization")], ref_template=REFERENCE)
    schemas: dict[str, Json] = found["$defs"]
    for model in _bodies(Body):
        if model.__name__ in schemas:
            _complete(schemas[model.__name__], model.others)
    return schemas


def _bodies(base: type[Body]) -> Iterator[type[Body]]:
    for model in base.__subclasses__():
        yield model
        yield from _bodies(model)


def _complete(schema: dict[str, Any], others: Fields) -> None:
    """Add what a body may have beside its fields: null for an absent one, and values without effect."""
    required = schema.get("required", ())
    properties = schema["properties"]
    for name, described in properties.items():
        if name not in required and NULL not in described.get("anyOf", ()):
            properties[name] = _nullable(described)
    ignored = {name: {"description": "Has no effect."} for name in sorted(others.ignored)}
    neutral = {
        name: {"description": "Only with a value that has no effect.", "anyOf": [*map(_exactly, values), NULL]}
        for name, values in sorted(others.neutral.items())
    }
    schema["properties"] = ignored | neutral | properties


def _exactly(value: Json) -> dict[str, Json]:
    """Return the schema of one value, without the ``enum`` and ``const`` that client generators do not support."""
    match value:
        case bool():
            return {"type": "boolean", "const": value}
        case int() | float():
            return {"type": "number", "minimum": value, "maximum": value}
        case str():
            return {"type": "string", "const": value}
        case list():
            return {"type": "array", "items": _exactly(value[0]) if value else {}, "maxItems": len(value)}
    inner = {name: _exactly(each) for name, each in value.items()}
    return {"type": "object", "properties": inner, "required": [*inner], "maxProperties": len(inner)}


def _nullable(described: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in described.items() if key in ("title", "description", "default")}
    inner = {key: value for key, value in described.items() if key not in kept}
    return kept | {"anyOf": [inner, NULL]}
