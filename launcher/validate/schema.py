"""The shape of ``certificate.json``, for those who read it in Python; ``certificate.schema.json`` says it in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from launcher.core.types import Json

VERSION = 1


class CertifiedEndpoint(TypedDict):
    url: str
    model: str
    backend: str
    engine: str


class CheckRecord(TypedDict):
    """A `Check` as JSON; ``ok`` is null where the check neither passed nor failed, and ``outcome`` says why.

    ``effect`` and ``remedy`` are empty unless it failed or warns.
    """

    id: str
    name: str
    family: str
    severity: str
    outcome: str
    ok: bool | None
    detail: str
    seconds: float
    requests: int
    sent: str
    received: str
    expected: str
    effect: str
    remedy: str
    numbers: Mapping[str, Json]


class Certificate(TypedDict):
    """``certificate.json``. ``tolerance`` has the fields of `Tolerance`, null where none was needed.

    ``counts`` has the number of checks by outcome, ``needed`` the abilities that the tasks need, ``requests`` and
    ``seconds`` what the certificate cost.
    """

    schema_version: int
    valid: bool
    checked_at: str
    endpoint: CertifiedEndpoint
    needed: list[str]
    counts: dict[str, int]
    requests: int
    seconds: float
    tolerance: Mapping[str, Json] | None
    checks: list[CheckRecord]
