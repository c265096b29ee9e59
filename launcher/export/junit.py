"""JUnit XML: ``results.xml``, in which a lost sample is an error; a wrong answer is none, a gate decides on scores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from launcher.core.console import printable
from launcher.core.files import replace
from launcher.core.types import NOT_ASKED, Record, Status
from launcher.export import rows
from launcher.export.source import Source


def write(source: Source, folder: Path) -> list[Path]:
    """Write a suite for the run, and one for each task with a case for each sample."""
    root = Element("testsuites")
    _run(source, root)
    suites = {name: SubElement(root, "testsuite", {"name": _plain(name)}) for name in source.results["tasks"]}
    for record in source.records():
        if record.task not in suites:
            suites[record.task] = SubElement(root, "testsuite", {"name": _plain(record.task)})
        _sample(record, suites[record.task])
    for name, suite in suites.items():
        _about_task(source, name, suite)
    for suite in root:
        cases = suite.findall("testcase")
        suite.set("tests", str(len(cases)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
        suite.set("errors", str(sum(case.find("error") is not None for case in cases)))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    return [replace(folder / "results.xml", text + "\n")]


def _run(source: Source, root: Element) -> None:
    suite = SubElement(root, "testsuite", {"name": "run"})
    case = SubElement(suite, "testcase", {"classname": "run", "name": _plain(f"status of {source.model}")})
    if source.results["status"] != "ok":
        said = f"{source.results['status']}: {source.results['reason'] or 'no reason was recorded'}"
        SubElement(case, "failure", {"message": _plain(said)})


def _sample(record: Record, suite: Element) -> None:
    name = f"{record.id}{f' repeat {record.repeat}' if record.repeat else ''}"
    values = {"classname": _plain(record.task), "name": _plain(name), "time": f"{record.latency_s:.6f}"}
    case = SubElement(suite, "testcase", values)
    if record.status is not Status.scored:
        said = f"{record.status.value}: {record.reason or 'no reason was recorded'}"
        SubElement(case, "error", {"message": _plain(said), "type": record.status.value})
    else:
        _lines(case, (f"{name}: {rows.text(value)}" for name, value in record.scores.items()))


def _about_task(source: Source, name: str, suite: Element) -> None:
    """Add the scores of a task as its output, and a case for samples that were not asked."""
    entry = source.results["tasks"].get(name)
    if entry is None:
        return
    if lost := entry["coverage"].get(NOT_ASKED, 0):
        case = SubElement(suite, "testcase", {"classname": _plain(name), "name": "samples that were not asked"})
        SubElement(case, "error", {"message": f"{lost} samples were not asked", "type": NOT_ASKED})
    _lines(suite, (f"{key}: {rows.text(one['value'])} ± {rows.text(one['stderr'])}"
                   for key, one in entry["metrics"].items()))  # fmt: skip


def _lines(parent: Element, lines: Iterable[str]) -> None:
    SubElement(parent, "system-out").text = _plain("\n".join(lines))


def _plain(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return rows.text(printable(text)).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
