"""Makes ``servers.json`` of run folders with a certificate or a load test."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from launcher.core.errors import UserError
from launcher.core.files import read_json
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Outcome
from launcher.report import formatting, results
from launcher.report.schema import LoadEntry, ResultsFile
from launcher.validate.check import AFTER, UNNEEDED
from launcher.verdict.servers import speed
from launcher.verdict.servers.schema import VERSION, DifferenceEntry, FailedCheck, RatioEntry, ServerEntry, ServersFile

FACTS = ("engine", "version", "dtype", "context_length", "quantization", "weights", "parameters")
NOT_MADE = "not needed"
"""The key of the counts for checks that no task of a run needed."""
OFTEN = 1.05
"""Lengths that differ by more than this factor are said."""


def collect(folders: Sequence[Path], *, beside: bool) -> ServersFile:
    """Compare the servers of run folders; ``beside`` says that their load tests took turns. Raises `UserError`."""
    servers = [_server(folder, label) for folder, label in zip(folders, string.ascii_uppercase, strict=False)]
    pairs = list(combinations(servers, 2))
    ratios = [entry for a, b in pairs for entry in speed.ratios(a, b, paired=beside)]
    differences = list(_differences(folders, servers))
    return {
        "schema_version": VERSION,
        "servers": servers,
        "verdict": [*map(_certified, servers), *_faster(ratios), _differ(servers, differences)],
        "warnings": [*(line for pair in pairs for line in _incomparable(*pair)), *_apart(servers, beside)],
        "ratios": ratios,
        "differences": differences,
    }


def _server(folder: Path, label: str) -> ServerEntry:
    found, certificate = results.read(folder), _certificate(folder)
    if certificate is None and "load" not in found:
        raise UserError(f"{folder}: the run has neither a certificate nor a load test (status {found['status']})")
    endpoint = found["endpoint"]
    return ServerEntry(
        label=label,
        folder=str(folder),
        url=endpoint["url"] if endpoint else "unknown",
        model=endpoint["model"] if endpoint else "unknown model",
        valid=None if certificate is None else bool(certificate["valid"]),
        counts=_counts(certificate) if certificate else {},
        failed=list(_failed(certificate)),
        facts={name: found["engine"][name] for name in FACTS if found["engine"].get(name) is not None},
        load=_load(found),
        load_left_out=found.get("load_left_out", "") if "load" not in found else "",
    )


def _certificate(folder: Path) -> Json:
    found = read_json(RunFolder(folder).certificate)
    if found is not None and not (isinstance(found, dict) and isinstance(found.get("checks"), list)):
        raise UserError(f"{RunFolder(folder).certificate}: not what a validation has written")
    return found


def _counts(certificate: Json) -> dict[str, int]:
    """Return the number of checks by outcome, those apart that no task of the run needed."""
    counts: dict[str, int] = dict(certificate["counts"])
    unneeded = sum(_is_unneeded(check) for check in certificate["checks"])
    if unneeded:
        counts[Outcome.not_applicable.value] -= unneeded
        counts[NOT_MADE] = unneeded
    return counts


def _is_unneeded(check: Json) -> bool:
    return bool(check["detail"].startswith(UNNEEDED))


def _load(found: ResultsFile) -> LoadEntry | None:
    return found.get("load")


def _failed(certificate: Json) -> Iterator[FailedCheck]:
    for check in certificate["checks"] if certificate else ():
        if check["outcome"] == Outcome.failed.value:
            yield FailedCheck(id=check["id"], name=check["name"], detail=check["detail"])


def _differences(folders: Sequence[Path], servers: Sequence[ServerEntry]) -> Iterator[DifferenceEntry]:
    """Yield the checks that did not end the same at all servers that have a certificate.

    Those that were not made because an earlier one failed only follow from it. Those that the run of one server did not
    need say nothing of it.
    """
    made = {one["label"]: _certificate(folder) for one, folder in zip(servers, folders, strict=True)}
    checks = {label: {check["id"]: check for check in found["checks"]} for label, found in made.items() if found}
    for name in dict.fromkeys(name for each in checks.values() for name in each):
        here = {label: each[name] for label, each in checks.items() if name in each}
        unneeded = [label for label, check in here.items() if _is_unneeded(check)]
        here = {label: check for label, check in here.items() if label not in unneeded}
        outcomes = {label: check["outcome"] for label, check in here.items()}
        follows = any(check["detail"].startswith(AFTER) for check in here.values())
        if here and not follows and (len(set(outcomes.values())) > 1 or len(here) + len(unneeded) < len(checks)):
            yield DifferenceEntry(
                id=name,
                name=next(iter(here.values()))["name"],
                outcomes=outcomes,
                details={label: check["detail"] for label, check in here.items()},
            )


def _certified(server: ServerEntry) -> str:
    label, counts = server["label"], server["counts"]
    if server["valid"] is None:
        return f"{label} was not validated"
    passed = formatting.plural(counts.get(Outcome.passed.value, 0), "check")
    warned = formatting.plural(counts.get(Outcome.warning.value, 0), "warning")
    if server["valid"]:
        spared = counts.get(Outcome.not_applicable.value, 0)
        rest = f", {spared} not applicable" if spared else ""
        if unneeded := counts.get(NOT_MADE):
            rest += f", {unneeded} not made, as no task of its run needs them"
        return f"{label} has a valid certificate: {passed} passed, {warned}{rest}"
    names = ", ".join(check["name"] for check in server["failed"])
    return f"{label} failed its certificate: {names}"


def _faster(ratios: Sequence[RatioEntry]) -> Iterator[str]:
    """Yield what a reader asks first: the most tokens per second, and one request alone."""
    seen: set[tuple[str, str]] = set()
    for entry in ratios:
        pair = entry["a"], entry["b"]
        if pair not in seen:  # the first of each pair is that of the most tokens
            yield f"{speed.sentence(entry)}, where each generates the most"
            seen.add(pair)
        elif entry["figure"] == speed.FIRST and entry["in_flight"] == (1, 1):
            yield speed.sentence(entry)


def _differ(servers: Sequence[ServerEntry], differences: Sequence[DifferenceEntry]) -> str:
    if sum(one["valid"] is not None for one in servers) < 2:
        return "fewer than two of them have a certificate to compare"
    if not differences:
        return "no check ended differently"
    names = ", ".join(difference["name"] for difference in differences[:5])
    more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
    return f"{formatting.plural(len(differences), 'check')} ended differently: {names}{more}"


def _incomparable(a: ServerEntry, b: ServerEntry) -> Iterator[str]:
    """Yield what was not the same in two load tests."""
    one, other = a["load"], b["load"]
    if one is None or other is None:
        return
    said = {"route": "path", "length of answers": "max_tokens", "tokens of a prompt": "prompt_tokens"}
    values = {what: (dict(one)[key], dict(other)[key]) for what, key in said.items()}
    for what, (x, y) in values.items():
        if x != y and not (isinstance(x, int) and isinstance(y, int) and _close(x, y)):
            yield f"the {what} is {x} at {a['label']}, {y} at {b['label']}"
    lengths = [_length(found) for found in (one, other)]
    if all(lengths) and not _close(*lengths):
        yield (
            f"an answer has {formatting.number(lengths[0])} tokens at {a['label']}, "
            f"{formatting.number(lengths[1])} at {b['label']}: compare tokens per second, not requests"
        )


def _close(x: float, y: float) -> bool:
    return max(x, y) <= OFTEN * min(x, y)


def _length(found: LoadEntry) -> float:
    return max((level["tokens_per_answer"] for level in found["levels"]), default=0.0)


def _apart(servers: Sequence[ServerEntry], beside: bool) -> Iterator[str]:
    if not beside and sum(one["load"] is not None for one in servers) > 1:
        yield "the load tests ran at different times: the intervals say nothing of what else the machines did then"
