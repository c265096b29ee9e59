"""Keeps the finished samples whose items are unchanged, where the items of a task have changed since."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launcher.core.console import to_stderr
from launcher.core.files import replace, replace_json
from launcher.core.lease import Lease
from launcher.core.run_folder import RunFolder
from launcher.core.types import Json, Record, Sample, Status
from launcher.evaluate import journal
from launcher.evaluate.exchange import plain
from launcher.evaluate.sample_source import SampleSource
from launcher.settings.evaluate import Evaluate
from launcher.tasks.base import Task


def reconcile(
    folder: Path, tasks: Mapping[str, Task], settings: Evaluate, model: str, fingerprint: Json, lease: Lease | None
) -> None:
    """Drop the finished samples whose requests or target the items of now would not give.

    They are asked again, and those of items that are gone are left out. What was kept is said, and recorded in
    ``journal.json``. Does nothing where no item has changed. Raises `ResumeError` where other settings have.
    """
    header, new = journal.header(folder), json.loads(json.dumps(fingerprint))
    journal.check(folder, new)
    if header is None or header["fingerprint"] == new:
        return
    if lease is not None:
        lease.check()
    changed = {name: task for name, task in tasks.items() if _files(header["fingerprint"], name) != _files(new, name)}
    made = {
        sample.key: _digest([plain(request) for request in sample.requests], sample)
        for sample in SampleSource(changed, settings, model, ()).every()
    }
    counts: dict[str, Counter[str]] = {name: Counter(kept=0, asked_again=0, removed=0) for name in changed}
    spent = _spent(RunFolder(folder), header)
    replace(RunFolder(folder).samples, _kept(RunFolder(folder), made, counts))
    changes = {name: dict(found) for name, found in counts.items()}
    lines = sum(1 for _ in RunFolder(folder).record_lines())
    budget = {"spent": dict(spent), "lines": lines} if spent else {}
    replace_json(RunFolder(folder).journal, {**header, **budget, "fingerprint": new, "item_changes": changes}, indent=2)
    for name, found in changes.items():
        to_stderr(f"tasks.{name}: {described(found)}")


def described(counts: Mapping[str, int]) -> str:
    """Return what became of the finished samples of a task whose items have changed."""
    return (
        f"its items have changed: {counts['kept']} finished samples kept, {counts['asked_again']} asked again, "
        f"{counts['removed']} removed"
    )


def _kept(folder: RunFolder, made: Mapping[str, str], counts: Mapping[str, Counter[str]]) -> Iterator[bytes]:
    for line, record in folder.record_lines():
        if record.task not in counts:
            yield line
            continue
        same = made.get(record.key) == _digest(record.requests, record)
        if record.status is not Status.failed:
            counts[record.task]["kept" if same else "asked_again" if record.key in made else "removed"] += 1
        if same:
            yield line


def _spent(folder: RunFolder, header: journal.JournalHeader) -> Counter[str]:
    """Return what all answers so far cost, also those that are dropped now."""
    spent, counted = Counter(header.get("spent", {})), header.get("lines", 0)
    for number, (_, record) in enumerate(folder.record_lines()):
        spent.update(record.spent or {} if number >= counted else {})
    return spent


def _files(fingerprint: Json, task: str) -> Json:
    items = fingerprint["tasks"][task]["items"]
    return items.get(journal.ITEM_FILES) if isinstance(items, dict) else None


def _digest(requests: Sequence[Json], of: Sample | Record) -> str:
    """Return a digest of what a finished sample must have in common with the item as it is now."""
    found = [list(requests), of.target, of.cluster, of.category]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
