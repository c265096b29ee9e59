"""Messages with calls of tools and their results, as chat templates read them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from launcher.api.request_schema import Message, MessageToolCall
from launcher.api.tool_calls.base import Call, NotACall, object_of
from launcher.asgi.errors import invalid, quoted
from launcher.core.types import Json


def for_template(messages: Sequence[Message]) -> list[dict[str, Json]]:
    """Return messages for a chat template: arguments as objects, results with the name of their tool.

    Raises `ApiError` 400 for arguments that are no object, and for two calls of one id in a message. So it does for the
    result of a call that is unknown or has a result. A later message may use an id again.
    """
    names: dict[str | None, str] = {}
    found = []
    for i, message in enumerate(messages):
        plain = message.plain()
        if message.tool_calls:
            calls = enumerate(message.tool_calls)
            plain["tool_calls"] = [_plain(call, f"messages[{i}].tool_calls[{j}]") for j, call in calls]
            _check_ids(message.tool_calls, i)
            names |= {call.id: call.function.name for call in message.tool_calls}
        elif message.role == "tool":
            if message.tool_call_id not in names:
                said = f"no call before it without a result has the id {quoted(message.tool_call_id)}"
                raise invalid(f"messages[{i}].tool_call_id", f"messages[{i}].tool_call_id: {said}")
            name = names.pop(message.tool_call_id)
            plain.setdefault("name", name)
        found.append(plain)
    return found


def _check_ids(calls: Sequence[MessageToolCall], i: int) -> None:
    seen: set[str] = set()
    for j, call in enumerate(calls):
        if call.id in seen:
            param = f"messages[{i}].tool_calls[{j}].id"
            raise invalid(param, f"{param}: another call of the message has the id {quoted(call.id)}")
        seen.add(call.id)


def _plain(call: MessageToolCall, param: str) -> dict[str, Json]:
    function = call.function
    try:
        arguments = object_of(function.arguments)
        Call(function.name, json.dumps(arguments, ensure_ascii=False))
    except NotACall:
        param = f"{param}.function.arguments"
        raise invalid(param, f"Invalid '{param}': expected a JSON object as a string.") from None
    return {"id": call.id, "type": "function", "function": {"name": function.name, "arguments": arguments}}
