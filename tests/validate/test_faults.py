"""Each planted fault of a server is found by the checks that the documentation names; a right server passes all."""

from __future__ import annotations

import pytest

from launcher.core.types import Outcome
from launcher.validate import certificate
from tests.validate.faults import FAULTS, Fault
from tests.validate.mock import Mock

FOUND = frozenset({Outcome.failed, Outcome.warning})
WITHOUT_LAUNCHER = {
    "ready",
    "forward_pass",
    "token_prompts",
    "chat_bos_once",
    "tokenizer_file",
    "key_needed",
    "next_token",
}
"""What a server without the launcher's routes cannot be asked."""


async def test_a_right_server_passes_every_check(mock: Mock) -> None:
    checks = await mock.certify(None)
    others = {id: check.detail for id, check in checks.items() if check.outcome is not Outcome.passed}
    assert set(others) == WITHOUT_LAUNCHER, others
    assert sum(check.requests for check in checks.values()) < 400


async def test_a_right_server_of_the_launcher_passes_every_check(mock: Mock) -> None:
    right = Fault("right", "", (), "answer", lambda path, asked, found: None, builtin=True)
    checks = await mock.certify(right)
    others = {id: check.detail for id, check in checks.items() if check.outcome is not Outcome.passed}
    assert set(others) <= {"server_facts", "key_needed", "chat_bos_once", "next_token"}, others


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_planted_fault_is_found(mock: Mock, fault: Fault) -> None:
    checks = await mock.certify(fault, frozenset(fault.checks))
    missed = {id: checks[id].detail for id in fault.checks if id not in checks or checks[id].outcome not in FOUND}
    assert not missed, missed


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_planted_fault_is_found_by_the_whole_certificate(mock: Mock, fault: Fault) -> None:
    """The checks before leave the state of a server as it would be in a run."""
    checks = await mock.certify(fault)
    assert {id for id, check in checks.items() if check.outcome in FOUND} & set(fault.checks)


def test_the_faults_are_many_and_name_checks_that_exist() -> None:
    assert len(FAULTS) >= 60
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(set(fault.checks) <= certificate.IDS and fault.checks and fault.what for fault in FAULTS)


def test_every_check_that_can_fail_finds_a_fault() -> None:
    unused = certificate.IDS - {id for fault in FAULTS for id in fault.checks}
    elsewhere = {"next_token"}  # tests/evaluate/test_next_token.py has a server with the routes of vLLM, and its fault
    assert unused == {"ready", "warm_up", "server_facts", "rounding"} | elsewhere
