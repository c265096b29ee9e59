"""The validation's checks, on every backend."""

from __future__ import annotations

from launcher.core import Endpoint
from launcher.validate import certificate
from launcher.validate.check import Need
from launcher.validate.settings import Validate


async def test_an_honest_server_passes_every_check(endpoint: Endpoint) -> None:
    checks = {check.name: check for check in await certificate.validate(endpoint, Validate(), frozenset(Need))}
    assert set(checks) == set(certificate.NAMES)
    assert not [check for check in checks.values() if check.ok is not True], checks
