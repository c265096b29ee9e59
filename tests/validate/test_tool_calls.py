"""A server that lacks tools is not blamed for it, unless a task sends some; then a fault of them fails it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import pytest
from tokenizers import AddedToken

from launcher.api.tool_calls.formats import FORMATS
from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.core.types import Outcome, Request
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.checkpoints.tokenizer_inputs import backend, tokenizer_folder
from tests.validate.conftest import TEMPLATE
from tests.validate.faults import FAULTS, Body, Fault, Send, tools_swallowed
from tests.validate.mock import Mock, serve

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


CHOICE_IGNORED = next(fault for fault in FAULTS if fault.name == "tool_choice_ignored")
FORMS = {form.name: form for form in FORMATS if form.name in ("kimi_k2", "deepseek_v32", "deepseek_v4", "qwen3_coder")}


@pytest.fixture(scope="module", params=FORMS)
def formed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """A right server whose model writes calls in another form than Hermes', in few enough tokens."""
    folder, form, made = tmp_path_factory.mktemp("mock"), FORMS[request.param], backend("byte_level")
    marks = {*form.marks, *form.more_marks, *(str(part) for part in astuple(form.frame) if part)}
    marks |= {part for part in astuple(form.elements) if part} if form.elements else set()
    made.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in sorted(marks)])
    place = tokenizer_folder(folder / "tokenizer", config={"chat_template": TEMPLATE}, made=made)
    tokenizer = from_folder(place)
    tokenizer.tool_call_parser = form.name
    try:
        with serve(folder, tokenizer) as (wrapped, endpoint):
            yield Mock(wrapped, endpoint, place)
    finally:
        tokenizer.close()


@pytest.mark.slow
async def test_calls_of_each_form_pass_the_checks_and_faults_of_them_are_found(formed: Mock) -> None:
    right = Fault("right", "", (), "answer", lambda path, asked, found: None)
    found = await checked(formed, right, SENT)
    assert {check.outcome for check in found.values()} == {Outcome.passed}, found
    for fault in FAULTS:
        if TOOLS & {*fault.checks}:
            found = await checked(formed, fault, SENT)
            outcomes = {found[check].outcome for check in fault.checks}
            # a model that is not forced may write up to its limit, which could be within a call
            expected = {Outcome.failed} if fault is not CHOICE_IGNORED else outcomes - {Outcome.passed}
            assert outcomes == expected, (fault.name, found)
