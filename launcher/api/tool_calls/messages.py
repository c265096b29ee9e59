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

    Raises `ApiError` 400 for arguments that are no object, and for the result of an unknown call.
    """
    names: dict[str | None, str] = {}
    found = []
    for i, message in enumerate(messages):
        plain = message.plain()
        if message.tool_calls:
            calls = enumerate(message.tool_calls)
            plain["tool_calls"] = [_plain(call, f"messages[{i}].tool_calls[{j}]") for j, call in calls]
            names |= {call.id: call.function.name for call in message.tool_calls}
        elif message.role == "tool":
            if message.tool_call_id not in names:
                said = f"no call before it has the id {quoted(message.tool_call_id)}"
                raise invalid(f"messages[{i}].tool_call_id", f"messages[{i}].tool_call_id: {said}")
            plain.setdefault("name", names[message.tool_call_id])
        found.append(plain)
    return found


def _plain(call: MessageToolCall, param: str) -> dict[str, Json]:
    function = call.function
    try:
        arguments = object_of(function.arguments)
        Call(function.name, json.dumps(arguments, ensure_ascii=False))
    except NotACall:
        param = f"{param}.function.arguments"
        raise invalid(param, f"Invalid '{param}': expected a JSON object as a string.") from None
    return {"id": call.id, "type": "function", "function": {"name": function.name, "arguments": arguments}}
