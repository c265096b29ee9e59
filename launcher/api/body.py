"""Parse the JSON body of a request into its schema, or raise one clear error that names the field."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.datastructures import Headers
from starlette.requests import Request

from launcher.api.extra_fields import MESSAGE, STREAM_OPTIONS, Fields
from launcher.api.request_schema import Body
from launcher.api.threads import run_in_thread_if_large
from launcher.asgi.errors import QUOTED, ApiError, clipped, invalid, quoted
from launcher.core.responses import json_type

Schema = TypeVar("Schema", bound=BaseModel)

NEWER = {"functions": "tools", "function_call": "tool_choice"}
"""What has replaced a field in OpenAI's API."""
SHORT = 40
"""The longest wrong value that a message quotes."""


async def read(request: Request, schema: type[Schema], most: int) -> Schema:
    """Read the body of a request, at most ``most`` bytes. Raises `ApiError` 400, 413 or 415, if possible unread."""
    _check_headers(request.headers, most)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise _too_large(most)
    return await run_in_thread_if_large(len(data), lambda: parse(bytes(data), schema))


def _check_headers(headers: Headers, most: int) -> None:
    encoding, kind = headers.get("content-encoding", ""), headers.get("content-type", "")
    if encoding.strip().lower() not in ("", "identity"):
        message = (
            f"Unsupported Content-Encoding: {quoted(encoding)}. This server reads bodies as they are ('identity')."
        )
        raise ApiError(415, message, code="unsupported_content_encoding", headers={"Accept-Encoding": "identity"})
    if not _is_json(kind.partition(";")[0].strip().lower(), browser="origin" in headers):
        message = f"Unsupported Content-Type: {quoted(kind)}. This server reads 'application/json'."
        raise ApiError(415, message, code="unsupported_content_type", headers={"Accept": "application/json"})
    if (length := headers.get("content-length", "0")).isdigit() and int(length[:19]) > most:
        raise _too_large(most)


def _is_json(media: str, browser: bool) -> bool:
    """Return whether a body counts as JSON.

    curl and urllib label each body as a form by default, so that a form is read as JSON. A web page must declare JSON:
    browsers send forms and untyped bodies to any server without a preflight (a "simple request" of the Fetch standard).
    """
    if media == "application/json" or media.endswith("+json"):
        return True
    return not browser and media in ("", "application/x-www-form-urlencoded")


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes", code="body_too_large")


def parse(data: bytes, schema: type[Schema]) -> Schema:
    """Return the validated body. Raises `ApiError` 400."""
    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(found, dict):
        raise invalid(None, f"Invalid body: expected a JSON object, but got {_a(found)} instead.", "invalid_type")
    try:
        return schema.model_validate(found)
    except ValidationError as error:
        raise validation_error(_first(error), schema) from None


def _first(error: ValidationError) -> ErrorDetails:
    """Return one error, independent of the order of keys: that of a known field before an unknown key."""
    found = error.errors(include_url=False)
    known = [each for each in found if each["type"] != "extra_forbidden"]
    return known[0] if known else min(found, key=lambda each: [str(part) for part in each["loc"]])


def validation_error(error: ErrorDetails, schema: type[BaseModel]) -> ApiError:
    """Return the error in OpenAI's words, where OpenAI has some."""
    param, context, value = _param(error["loc"]), error.get("ctx", {}), error["input"]
    match error["type"]:
        case "missing":
            return invalid(param, f"Missing required parameter: '{param}'.", "missing_required_parameter")
        case "extra_forbidden":
            return _not_taken(param, error["loc"], schema)
        case "greater_than_equal":
            return _outside(param, value, "below minimum", f">= {context['ge']}", "below_min_value")
        case "less_than_equal":
            return _outside(param, value, "above maximum", f"<= {context['le']}", "above_max_value")
        case "literal_error":
            message = f"Invalid value for '{param}': {_seen(value)}. Supported values are: {context['expected']}."
            return invalid(param, message, "invalid_value")
        case "too_short":
            expected = f"Expected an array with minimum length {context['min_length']}"
            return invalid(param, f"Invalid '{param}': empty array. {expected}.", "empty_array")
        case kind if kind in EXPECTED:
            message = f"Invalid type for '{param}': expected {EXPECTED[kind]}, but got {_a(value)} instead."
            return invalid(param, message, "invalid_type")
    message = clipped(error["msg"].removeprefix("Value error, "), 2 * QUOTED)
    return invalid(param, f"Invalid '{param}': {message}.", "invalid_value")


EXPECTED = {
    "model_type": "an object",
    "bool_type": "a boolean",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "list_type": "an array",
    "string_type": "a string",
}
"""The type that pydantic expects, in OpenAI's words."""


def _param(loc: tuple[int | str, ...]) -> str:
    """Return the path of a field as OpenAI writes it, for instance ``messages[0].role``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{clipped(part)}" for part in loc)
    return clipped("".join(parts).removeprefix("."))


def _outside(param: str, value: Any, where: str, expected: str, code: str) -> ApiError:
    kind = json_type(value)
    message = f"Invalid '{param}': {kind} {where} value. Expected a value {expected}, but got {quoted(value)} instead."
    return invalid(param, message, f"{kind}_{code}")


def _not_taken(param: str, loc: tuple[int | str, ...], schema: type[BaseModel]) -> ApiError:
    if str(loc[-1]) in _others(loc, schema).neutral:
        message = f"Unsupported parameter: '{param}' is not supported by this server with this value."
        message += f" Use '{NEWER[param]}' instead." if param in NEWER else ""
        return invalid(param, message, "unsupported_parameter")
    return invalid(param, f"Unknown parameter: '{param}'.{_suggestion(loc, schema)}", "unknown_parameter")


def _others(loc: tuple[int | str, ...], schema: type[BaseModel]) -> Fields:
    if len(loc) == 1:
        return schema.others if issubclass(schema, Body) else Fields()
    return {"messages": MESSAGE, "stream_options": STREAM_OPTIONS}.get(str(loc[0]), Fields())


def _suggestion(loc: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    if len(loc) > 1:
        return ""
    close = get_close_matches(clipped(str(loc[0])), schema.model_fields, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Expected one of: {', '.join(sorted(schema.model_fields))}."


def _seen(value: Any) -> str:
    """Quote a short wrong value, else name its type: prompts stay out of messages."""
    shown = quoted(value)
    return shown if len(shown) <= SHORT else _a(value)


def _a(value: Any) -> str:
    """Return the type of a wrong value, followed by a short value itself."""
    kind, shown = json_type(value), quoted(value)
    name = f"a{'n' if kind[0] in 'aeiou' else ''} {kind}"
    return name if isinstance(value, dict | list) or value is None or len(shown) > SHORT else f"{name} ({shown})"
