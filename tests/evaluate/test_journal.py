from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.core import redaction
from launcher.core.errors import ResumeError, TakenOver
from launcher.core.lease import Lease
from launcher.core.records import to_line
from launcher.core.run_folder import RunFolder
from launcher.core.types import Status
from launcher.evaluate import journal
from launcher.evaluate.journal import LEASE_AGE_S, Journal, difference
from launcher.evaluate.outcome import read_to_continue
from tests.sample_records import made

PRINT = {"model": {"name": "m"}, "evaluate": {"temperature": None}}


def finished(opened: Journal, keys: set[str]) -> bool:
    """Tell whether exactly these samples are finished."""
    return len(opened.finished) == len(keys) and all(key in opened.finished for key in keys)


def keys(folder):
    return [record.key for record in RunFolder(folder).records()]


def test_records_are_on_disk_as_they_come(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        assert keys(tmp_path) == []
        opened.add(record("t/b/0"))
        assert keys(tmp_path) == ["t/b/0"]
        opened.add(record("t/a/0"))
        assert keys(tmp_path) == ["t/b/0", "t/a/0"]


def test_finished_samples_are_known_when_it_is_continued(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        for status in Status:
            opened.add(record(f"t/{status.value}/0", status))
    with Journal(tmp_path, PRINT) as opened:
        assert finished(opened, {f"t/{s.value}/0" for s in Status if s is not Status.failed})


def test_the_last_line_of_a_sample_counts(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/a/0", Status.failed))
        opened.add(record("t/b/0"))
        opened.add(record("t/a/0", value=0.0))
    assert [r.status for r in RunFolder(tmp_path).records()] == [Status.scored, Status.scored]
    with Journal(tmp_path, PRINT) as opened:
        assert finished(opened, {"t/a/0", "t/b/0"})


def test_closing_sorts_and_keeps_one_line_per_sample(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/c/0"))
        opened.add(record("t/a/0", Status.failed))
        opened.add(record("t/b/0"))
        opened.add(record("t/a/0"))
        opened.close(map(opened.keys.add, ["t/a/0", "t/x/0", "t/b/0"]), {"totals": {"t": 4}})
    assert keys(tmp_path) == ["t/a/0", "t/b/0", "t/c/0"]
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 3
    assert journal.header(tmp_path) == {"schema_version": 1, "fingerprint": PRINT, "totals": {"t": 4}}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.json", "samples.jsonl"]
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/d/0"))
        opened.close(map(opened.keys.add, ["t/a/0", "t/b/0", "t/c/0", "t/d/0"]), {})
    assert keys(tmp_path) == ["t/a/0", "t/b/0", "t/c/0", "t/d/0"]


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_line_torn_by_a_crash_is_dropped(record, tmp_path, cut):
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/a/0"))
        opened.add(record("t/b/0"))
    samples = tmp_path / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-cut])
    assert keys(tmp_path) == ["t/a/0"]
    with Journal(tmp_path, PRINT) as opened:
        assert finished(opened, {"t/a/0"})
        opened.add(record("t/b/0"))
    assert keys(tmp_path) == ["t/a/0", "t/b/0"]


def test_damage_in_the_middle_is_named(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/a/0"))
    samples = tmp_path / "samples.jsonl"
    samples.write_bytes(b"{broken\n" + samples.read_bytes())
    with pytest.raises(ResumeError, match=r"samples\.jsonl:1"):
        Journal(tmp_path, PRINT)


def test_a_changed_fingerprint_is_refused_with_the_difference(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/a/0"))
    before = (tmp_path / "samples.jsonl").read_bytes()
    changed = {"model": {"name": "other"}, "evaluate": {"temperature": 0.8}, "adapters": ["x"], "new": ""}
    with pytest.raises(ResumeError) as error:
        Journal(tmp_path, changed)
    assert str(error.value).splitlines() == [
        f"{tmp_path} has samples that were asked in another way; choose another folder, or undo this:",
        '  model.name: "m" -> "other"',
        "  evaluate.temperature: null -> 0.8",
        '  adapters: null -> ["x"]',
    ]
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_difference_of_lists_and_nested_values():
    assert difference({"a": [1, 2], "b": {"c": 1}}, {"a": [2, 1], "b": {"c": 1}}) == ["a: [1, 2] -> [2, 1]"]
    assert difference({"a": {"x": 1}}, {"a": 3}) == ['a: {"x": 1} -> 3']
    assert difference({"a": None}, {"a": "x" * 500}) == [f'a: null -> "{"x" * 119}...']
    assert difference(PRINT, json.loads(json.dumps(PRINT))) == []


def test_samples_without_a_header_are_not_overwritten(tmp_path):
    (tmp_path / "samples.jsonl").write_text("")
    with pytest.raises(ResumeError, match=r"journal\.json"):
        Journal(tmp_path, PRINT)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 99, "fingerprint": 1}', '{"schema_version": 1}'])
def test_a_damaged_header_is_named(tmp_path, text):
    (tmp_path / "journal.json").write_text(text)
    with pytest.raises(ResumeError, match=r"journal\.json"):
        Journal(tmp_path, PRINT)


def test_a_folder_without_a_journal_is_empty(tmp_path):
    assert (journal.header(tmp_path), keys(tmp_path)) == (None, [])


def test_what_an_earlier_session_still_writes_does_not_reach_the_later_one(record, tmp_path):
    with Journal(tmp_path, PRINT) as earlier:  # it holds no lease, so that nothing stops it
        earlier.add(record("t/1/0"))
        with Journal(tmp_path, PRINT, Lease(tmp_path)) as later:
            earlier.add(record("t/2/0"))
            later.add(record("t/3/0"))
            later.close(map(later.keys.add, ["t/1/0", "t/3/0"]), {})
    assert keys(tmp_path) == ["t/1/0", "t/3/0"]


def test_once_a_later_session_has_begun_the_earlier_one_adds_and_closes_no_more(record, tmp_path):
    with Journal(tmp_path, PRINT, Lease(tmp_path)) as earlier:
        earlier.add(record("t/1/0"))
        with Journal(tmp_path, PRINT, Lease(tmp_path)):
            time.sleep(LEASE_AGE_S)
            with pytest.raises(TakenOver):
                earlier.add(record("t/2/0"))
            with pytest.raises(TakenOver):
                earlier.close([], {})
    assert keys(tmp_path) == ["t/1/0"]


def test_a_session_that_was_overtaken_before_it_opens_the_journal_does_not_open_it(tmp_path):
    earlier = Lease(tmp_path)
    Lease(tmp_path)
    with pytest.raises(TakenOver):
        Journal(tmp_path, PRINT, earlier)
    assert not (tmp_path / "journal.json").exists()


def limited(folder: Path, bytes_: int, together: int) -> str:
    """Add lines in a process whose files may not grow over a size, some at once; return what it says of the last."""
    code = f"""
import resource, signal
from pathlib import Path
from launcher.core.types import Record, Status
from launcher.core.errors import StorageError
from launcher.evaluate.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
made = lambda i: Record("t", str(i), 0, ({{}},), ("x" * (7 * i % 90),), None, None, {{}}, Status.scored, None, 0.1)
with Journal(Path({str(folder)!r}), {{}}) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_}, {bytes_}))
    refused = 0
    for number in range(0, 200, {together}):
        try:
            journal.add(*map(made, range(number, number + {together})))
        except StorageError as error:
            said, refused = str(error), refused + 1
print(said)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize(("bytes_", "together"), [(1000, 1), (4097, 8), (9999, 1)])
def test_a_full_disk_leaves_whole_lines_and_is_named(tmp_path: Path, bytes_: int, together: int) -> None:
    said = limited(tmp_path, bytes_, together)
    assert said.startswith(f"{tmp_path / 'samples.jsonl'}: cannot be written: ")
    found = keys(tmp_path)
    assert 3 < len(found) < 200
    assert bytes_ - 400 < (tmp_path / "samples.jsonl").stat().st_size <= bytes_
    with Journal(tmp_path, {}) as opened:
        assert finished(opened, set(found))


def test_a_record_that_cannot_be_written_takes_none_before_it_along(record, tmp_path: Path) -> None:
    with Journal(tmp_path, PRINT) as opened, pytest.raises(TypeError):
        opened.add(record("t/a/0"), record("t/b/0", responses=({1, 2},)), record("t/c/0"))
    assert keys(tmp_path) == ["t/a/0"]


@pytest.mark.parametrize("name", ["samples.jsonl", "journal.json"])
def test_a_folder_in_the_place_of_a_file_is_named(record, tmp_path: Path, name: str) -> None:
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/a/0"))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ResumeError, match=f"{name}: cannot be read: Is a directory"):
        Journal(tmp_path, PRINT)


def test_a_secret_at_the_end_of_a_shared_beginning_is_redacted(record, tmp_path):
    start = "Question " * 40 + "sk-abc"
    prompts = [start + end for end in ("DEFGHI", "DEFXYZ")]
    redaction.hide(start[-6:] + "DEFGHI", "KEY")
    try:
        with Journal(tmp_path, PRINT) as opened:
            opened.add(record("t/a/0", requests=({"path": "/v1/completions", "body": {"prompt": prompts}},)))
    finally:
        redaction.forget()
    text = (tmp_path / "samples.jsonl").read_text()
    assert "redacted: KEY" in text
    assert text.count("sk-abc") == 1
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/b/0", requests=({"path": "/v1/completions", "body": {"prompt": prompts}},)))
    assert (tmp_path / "samples.jsonl").read_text().count("sk-abc") == 2


def continued(tmp_path, lines):
    """Continue a journal with what was read of it; return whether that was used."""
    with Journal(tmp_path, PRINT, lines=lines) as opened:
        opened.add(made("t/new/0"))
        opened.close(range(len(opened.keys)), {})
        return opened.keys is lines.keys


def test_what_was_read_of_the_samples_is_not_read_again(record, tmp_path):
    with Journal(tmp_path, PRINT) as opened:
        for key in ("t/a/0", "t/b/0", "t/a/0", "t/c/0"):
            opened.add(record(key, Status.failed if key == "t/c/0" else Status.scored, spent={"prompt_tokens": 2}))
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write(b"cut by a cra")
    lines = read_to_continue(tmp_path, {}).lines
    assert lines is not None
    assert lines.spent == {"prompt_tokens": 8}
    with Journal(tmp_path, PRINT) as opened:
        assert (opened.spent, finished(opened, {"t/a/0", "t/b/0"})) == (lines.spent, True)
    lines = read_to_continue(tmp_path, {}).lines
    assert continued(tmp_path, lines)
    assert keys(tmp_path) == ["t/a/0", "t/b/0", "t/c/0", "t/new/0"]


@pytest.mark.parametrize("change", ["appended", "secret", "replaced"])
def test_what_was_read_of_samples_that_have_changed_is_read_again(record, tmp_path, change):
    with Journal(tmp_path, PRINT) as opened:
        opened.add(record("t/a/0", prediction="sk-secret"))
        opened.add(record("t/b/0"))
    lines = read_to_continue(tmp_path, {}).lines
    samples = tmp_path / "samples.jsonl"
    if change == "secret":
        redaction.hide("sk-secret", "KEY")
    elif change == "appended":
        samples.write_bytes(samples.read_bytes() + to_line(record("t/d/0")))
    else:
        samples.write_bytes(b"".join(reversed(samples.read_bytes().splitlines(keepends=True))))
    try:
        assert not continued(tmp_path, lines)
    finally:
        redaction.forget()
    assert set(keys(tmp_path)) == {"t/a/0", "t/b/0", "t/new/0"} | ({"t/d/0"} if change == "appended" else set())
    assert ("sk-secret" in samples.read_text()) is (change != "secret")
