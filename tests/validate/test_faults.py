"""Each planted fault of a server is found by the checks that the documentation names; a right server passes all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.core.types import Check, Endpoint, Outcome
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.checkpoints.tokenizer_inputs import tokenizer_folder
from tests.validate.faults import FAULTS, Fault
from tests.validate.mock import HIDDEN, Wrapped, serve

ALL = frozenset(Capability)
FOUND = frozenset({Outcome.failed, Outcome.warning})
WITHOUT_LAUNCHER = {"ready", "forward_pass", "token_prompts", "chat_bos_once", "tokenizer_file", "key_needed"}
"""What a server without the launcher's routes cannot be asked."""


class Mock:
    def __init__(self, wrapped: Wrapped, endpoint: Endpoint, folder: Path) -> None:
        self.wrapped, self.endpoint, self.folder = wrapped, endpoint, folder

    async def certify(self, fault: Fault | None, only: frozenset[str] | None = None) -> dict[str, Check]:
        """Return the checks by id; with ``only``, no other is made."""
        self.wrapped.plant(fault)
        builtin = fault is not None and fault.builtin
        key = "the-key" if fault is not None and "key_needed" in fault.checks else None
        endpoint = replace(self.endpoint, is_builtin=builtin, api_key=key)
        skipped = [check.id for check in certificate.CHECKS if only is not None and check.id not in only]
        settings = Validate(skip=skipped, timeout_s=20)
        checks = await certificate.validate(endpoint, settings, ALL, self.folder if builtin else None)
        return {check.id: check for check in checks}


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    folder = tmp_path_factory.mktemp("mock")
    place = tokenizer_folder(folder / "tokenizer")
    tokenizer = from_folder(place)
    try:
        with serve(folder, tokenizer) as (wrapped, endpoint):
            yield Mock(wrapped, endpoint, place)
    finally:
        tokenizer.close()


async def test_a_right_server_passes_every_check(mock: Mock) -> None:
    checks = await mock.certify(None)
    others = {id: check.detail for id, check in checks.items() if check.outcome is not Outcome.passed}
    assert set(others) == WITHOUT_LAUNCHER, others
    assert sum(check.requests for check in checks.values()) < 400


async def test_a_right_server_of_the_launcher_passes_every_check(mock: Mock) -> None:
    right = Fault("right", "", (), "answer", lambda path, asked, found: None, builtin=True)
    checks = await mock.certify(right)
    others = {id: check.detail for id, check in checks.items() if check.outcome is not Outcome.passed}
    assert set(others) <= {"server_facts", "key_needed", "chat_bos_once"}, others


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
    assert unused == {"ready", "warm_up", "server_facts", "rounding"}
    assert HIDDEN
    assert sys.version_info
