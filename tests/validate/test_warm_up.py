"""A server may compile at the first request of a kind: that has the time of a start, not of a check."""

from __future__ import annotations

import asyncio
from typing import Any

from launcher.core.types import Outcome
from tests.validate.faults import Body, Fault, Send
from tests.validate.mock import Mock

COMPILES_S = 4.0
CHECK_S = 3.0


async def compiling(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """The first request with log-probabilities of a prompt waits."""
    if asked.get("echo") and "compiled" not in state:
        await asyncio.sleep(COMPILES_S)
        state["compiled"] = True
    return await send(asked)


async def hanging(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """No request is answered."""
    return await (asyncio.get_running_loop().create_future() if asked else send(asked))


COMPILING = Fault("compiling", "", (), "call", compiling)
HANGING = Fault("hanging", "", (), "call", hanging)


async def test_a_server_that_compiles_at_its_first_request_passes(mock: Mock) -> None:
    checks = await mock.certify(COMPILING, frozenset({"warm_up", "echo_aligned"}), timeout_s=CHECK_S)
    assert checks["warm_up"].outcome is checks["echo_aligned"].outcome is Outcome.passed, checks
    assert checks["warm_up"].numbers["echo"] >= COMPILES_S


async def test_without_the_warm_up_it_would_fail(mock: Mock) -> None:
    checks = await mock.certify(COMPILING, frozenset({"echo_aligned"}), timeout_s=CHECK_S)
    assert checks["echo_aligned"].detail == f"no answer within {CHECK_S:g} s"


async def test_a_server_that_hangs_is_given_up_at_the_deadline_of_the_start(mock: Mock) -> None:
    only = frozenset({"model_listed", "warm_up", "completion"})
    checks = await mock.certify(HANGING, only, warm_up_timeout_s=0.5)
    assert checks["warm_up"].outcome is Outcome.failed
    assert checks["warm_up"].detail == "no answer within 0.5 s"
    assert "completion" not in checks, "nothing more is asked"
