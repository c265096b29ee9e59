"""The validation's checks, on every backend."""

from __future__ import annotations

from launcher.core.types import Endpoint, resolve
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability

TINY = "package:launcher/assets/tiny/iter_0000800"


async def test_an_honest_server_passes_every_check(endpoint: Endpoint) -> None:
    files = resolve(TINY) if endpoint.engine == "megatron" else None
    found = await certificate.validate(endpoint, Validate(), frozenset(Capability), files)
    checks = {check.name: check for check in found}
    assert set(checks) == set(certificate.NAMES)
    of_a_model = ["tokens of the file", "tool call valid", "tool call streamed"]
    without = {"server facts", "key needed", "next token", *(of_a_model if files is None else [])}
    assert {check.name for check in found if check.ok is not True} == without, checks
