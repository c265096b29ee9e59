"""A request's JSON body to its schema, or to one clear message that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import Request

from launcher.api.errors import ApiError, invalid
from launcher.api.schema import IGNORED, UNSUPPORTED

Schema = TypeVar("Schema", bound=BaseModel)

MAX_BYTES = 64 * 2**20


async def read(request: Request, schema: type[Schema]) -> Schema:
    """Read the body of a request. Raises `ApiError` 400, or 413 for more than `MAX_BYTES`."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BYTES} bytes")
    return parse(bytes(data), schema)


def parse(data: bytes, schema: type[Schema]) -> Schema:
    """Return the validated body. Raises `ApiError` 400."""
    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid(None, f"the body is a JSON {_json_type(found)}, accepted is an object")
    try:
        return schema.model_validate(_supported(found, schema))
    except ValidationError as error:
        raise _complaint(error.errors(include_url=False)[0], schema) from None


def _supported(found: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Leave out fields that ask for nothing, and refuse those that ask for what this server cannot do."""
    for name in found.keys() & UNSUPPORTED.keys() - schema.model_fields.keys():
        if found[name] is not None and found[name] != UNSUPPORTED[name]:
            raise invalid(name, f"{name} is not supported by this server", "unsupported_parameter")
    return {name: value for name, value in found.items() if name not in UNSUPPORTED and name not in IGNORED}


def _complaint(error: ErrorDetails, schema: type[BaseModel]) -> ApiError:
    """Say in one line what is wrong with the first wrong field."""
    param = ".".join(map(str, error["loc"])) or None
    if error["type"] == "missing":
        return invalid(param, f"{param} is required", "missing_required_parameter")
    if error["type"] == "extra_forbidden":
        return invalid(param, f"unknown field {param}{_suggestion(error['loc'], schema)}", "unknown_parameter")
    message = (
        "accepted is a JSON object" if error["type"] == "model_type" else error["msg"].removeprefix("Value error, ")
    )
    return invalid(param, f"{param}: {message[:1].lower()}{message[1:]}{_seen(error['input'])}")


def _suggestion(loc: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    if len(loc) > 1:
        return ""
    close = get_close_matches(str(loc[0]), schema.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; accepted are {', '.join(sorted(schema.model_fields))}"


def _seen(value: Any) -> str:
    """Quote a wrong value when it is short: prompts stay out of messages."""
    if isinstance(value, dict | list):
        return ""
    shown = repr(value)
    return f", got {shown}" if len(shown) <= 40 else ""


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
