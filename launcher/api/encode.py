"""JSON answers."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import to_json
from starlette.responses import Response

from launcher.api.errors import ApiError
from launcher.core.types import Json


def respond(content: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def refuse(error: ApiError) -> Response:
    return respond(error.body(), error.status, error.headers)
