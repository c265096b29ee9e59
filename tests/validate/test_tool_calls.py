"""A server that lacks tools is not blamed for it, unless a task sends some; then a fault of them fails it."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.core.types import Outcome, Request
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.validate.faults import Body, Fault, Send, tools_swallowed
from tests.validate.mock import Mock

TOOLS = frozenset({"tools_read", "tool_results_read", "tool_call_valid", "tool_call_streamed"})
SENT = certificate.needs([Request("/v1/chat/completions", {"messages": [], "tools": [{"type": "function"}]})])


async def refuses_tools(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A server without tools refuses them."""
    if asked.get("tools"):
        return 400, {"error": {"message": "tools: not here", "type": "x", "param": "tools", "code": None}}
    return await send(asked)


async def checked(mock: Mock, fault: Fault, needed: frozenset[Capability]) -> dict[str, Any]:
    mock.wrapped.plant(fault)
    skipped = [check.id for check in certificate.CHECKS if check.id not in {*TOOLS, "chat"}]
    settings = Validate(skip=skipped, timeout_s=60)
    checks = await certificate.validate(mock.endpoint, settings, needed)
    return {check.id: check for check in checks if check.id in TOOLS}


def test_a_task_that_sends_tools_needs_them() -> None:
    assert Capability.tools in SENT
    assert Capability.tools not in certificate.needs([Request("/v1/chat/completions", {"messages": []})])


async def test_a_server_without_tools_lacks_them_rightly(mock: Mock) -> None:
    fault = Fault("refuses", "", (), "call", refuses_tools)
    found = await checked(mock, fault, frozenset(Capability))
    assert {check.outcome for check in found.values()} == {Outcome.not_applicable}
    assert "tools: not here" in found["tools_read"].detail


async def test_a_task_that_sends_tools_to_such_a_server_stops_the_run(mock: Mock) -> None:
    found = await checked(mock, Fault("refuses", "", (), "call", refuses_tools), SENT)
    assert found["tools_read"].outcome is Outcome.failed


@pytest.mark.parametrize(("needed", "outcome"), [(frozenset(Capability), Outcome.warning), (SENT, Outcome.failed)])
async def test_swallowed_tools_stop_a_run_that_sends_some(
    mock: Mock, needed: frozenset[Capability], outcome: Outcome
) -> None:
    found = await checked(mock, Fault("swallows", "", (), "request", tools_swallowed), needed)
    assert found["tools_read"].outcome is outcome
