"""The certificate in JUnit's XML, which CI systems show: a suite for each family, a case for each check."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from xml.etree import ElementTree

from launcher.core.types import Check, Endpoint, Outcome
from launcher.validate.check import Family

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML 1.0 cannot hold, which an answer may have."""
SKIPPED = frozenset({Outcome.not_applicable, Outcome.left_out})
ORDER = [family.value for family in Family]


def document(checks: Iterable[Check], endpoint: Endpoint) -> str:
    """Return the XML of a certificate. A warning is a case that passed, with the warning as its output."""
    suites = ElementTree.Element("testsuites", name=_plain(f"certificate of {endpoint.model}"))
    ordered = sorted(checks, key=lambda check: ORDER.index(check.family) if check.family in ORDER else len(ORDER))
    for family, group in groupby(ordered, key=lambda check: check.family):
        _suite(suites, family or "certificate", list(group))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _suite(parent: ElementTree.Element, family: str, checks: list[Check]) -> None:
    suite = ElementTree.SubElement(
        parent,
        "testsuite",
        name=family,
        tests=str(len(checks)),
        failures=str(sum(check.outcome is Outcome.failed for check in checks)),
        errors="0",
        skipped=str(sum(check.outcome in SKIPPED for check in checks)),
        time=f"{sum(check.seconds for check in checks):.4f}",
    )
    for check in checks:
        case = ElementTree.SubElement(
            suite, "testcase", name=_plain(check.name), classname=f"certificate.{family}", time=f"{check.seconds:.4f}"
        )
        _outcome(case, check)


def _outcome(case: ElementTree.Element, check: Check) -> None:
    detail = _plain(check.detail)
    if check.outcome is Outcome.failed:
        failure = ElementTree.SubElement(case, "failure", message=detail, type=check.id)
        failure.text = _plain(_explained(check))
    elif check.outcome in SKIPPED:
        ElementTree.SubElement(case, "skipped", message=detail)
    else:
        warning = f"warning: {detail}\n{_plain(_explained(check))}" if check.outcome is Outcome.warning else detail
        ElementTree.SubElement(case, "system-out").text = warning


def _explained(check: Check) -> str:
    rows = {
        "sent": check.sent,
        "received": check.received,
        "expected": check.expected,
        "effect": check.effect,
        "to set": check.remedy,
    }
    return "\n".join(f"{name}: {text}" for name, text in rows.items() if text)


def _plain(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)
