"""Writes the findings of a gate for CI: JUnit XML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from launcher.core.console import printable
from launcher.core.files import replace
from launcher.report.results import well_formed
from launcher.verdict.gate import Finding, Outcome, overall


def junit(findings: Sequence[Finding], path: Path) -> Path:
    """Write one test case for each finding: NO-GO is a failure, INCONCLUSIVE an error."""
    count = {outcome: sum(finding.outcome is outcome for finding in findings) for outcome in Outcome}
    totals = {"failures": str(count[Outcome.no_go]), "errors": str(count[Outcome.inconclusive])}
    suite = ElementTree.Element("testsuite", {"name": "gate", "tests": str(len(findings)), **totals})
    for finding in findings:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "gate", "name": _plain(finding.name)})
        if finding.outcome is not Outcome.go:
            kind = "failure" if finding.outcome is Outcome.no_go else "error"
            ElementTree.SubElement(case, kind, {"message": f"{finding.outcome.word}: {_plain(finding.detail)}"})
    ElementTree.indent(suite)
    return replace(path, ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n")


def markdown(findings: Sequence[Finding], path: Path) -> Path:
    """Write the verdict as a heading and the findings as a table."""
    rows = [f"| {_cell(each.name)} | {each.outcome.word} | {_cell(each.detail)} |" for each in findings]
    head = [f"## {overall(findings).word}", "", "| Rule | Outcome | Found |", "| --- | --- | --- |"]
    return replace(path, "\n".join([*head, *rows]) + "\n")


def _plain(text: str) -> str:
    return well_formed(printable(text))


def _cell(text: str) -> str:
    return _plain(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
