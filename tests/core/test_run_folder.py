"""One reader of ``samples.jsonl`` with one opinion of damage; every file has one name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from launcher.core.errors import ResumeError
from launcher.core.records import to_line
from launcher.core.run_folder import RunFolder, SampleCounter
from launcher.core.types import Record, Status
from launcher.evaluate.journal import Journal
from launcher.report.compare import Answers
from launcher.report.samples import gather
from launcher.slurm.status import sample_count
from tests.sample_records import made


def finished(opened: Journal, keys: set[str]) -> bool:
    """Tell whether exactly these samples are finished."""
    return len(opened.finished) == len(keys) and all(key in opened.finished for key in keys)


def write(folder: Path, records: Iterable[Record], rest: bytes = b"") -> bytes:
    text = b"".join(map(to_line, records)) + rest
    (folder / "samples.jsonl").write_bytes(text)
    return text


def test_a_file_is_a_path_in_a_folder_and_a_name_without_one(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).results == tmp_path / "results.json"
    assert str(RunFolder.results) == "results.json"
    assert RunFolder(tmp_path).job == tmp_path / "slurm" / "job.json"


def test_the_last_record_of_a_sample_counts(tmp_path: Path) -> None:
    write(tmp_path, [made("t/a/0", Status.failed), made("t/b/0"), made("t/a/0")])
    assert [(one.key, one.status) for one in RunFolder(tmp_path).records()] == [
        ("t/b/0", Status.scored),
        ("t/a/0", Status.scored),
    ]


@pytest.mark.parametrize("rest", [b"{", to_line(made("t/c/0"))[:-1], b"\xff"])
def test_every_reader_leaves_out_a_last_line_without_an_end(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "journal.json").write_text('{"schema_version": 1, "fingerprint": {}}')
    write(tmp_path, [made("t/a/0"), made("t/b/0")], rest)
    assert [one.key for one in RunFolder(tmp_path).records()] == ["t/a/0", "t/b/0"]
    assert (gather(tmp_path).total, sample_count(tmp_path)) == (2, "2")
    assert Answers.read(tmp_path, {}).ids == {"t": {"a", "b"}}
    with Journal(tmp_path, {}) as journal:
        assert finished(journal, {"t/a/0", "t/b/0"})


@pytest.mark.parametrize(
    "line",
    [b"", b"[1]", b"[" * 100_000, b'{"task": "t"}', b"\x00\x00\x00", to_line(made("t/b/0")).replace(b'"b"', b'"\xff"')],
    ids=["empty", "list", "deep", "other", "zeros", "utf8"],
)
def test_every_reader_names_the_file_and_the_line_of_other_damage(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "journal.json").write_text('{"schema_version": 1, "fingerprint": {}}')
    before = write(tmp_path, [made("t/a/0")], line.rstrip(b"\n") + b"\n" + to_line(made("t/c/0")))
    for read in (
        lambda f: list(RunFolder(f).records()),
        gather,
        lambda f: Answers.read(f, {}),
        lambda f: Journal(f, {}),
    ):
        with pytest.raises(ResumeError, match=rf"^{re.escape(str(tmp_path))}/samples\.jsonl:2: .*delete this line"):
            read(tmp_path)
    assert sample_count(tmp_path).startswith(f"{tmp_path}/samples.jsonl:2: ")
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_a_folder_without_samples_has_none(tmp_path: Path) -> None:
    assert list(RunFolder(tmp_path).records()) == []
    assert SampleCounter(tmp_path).count() == 0


def test_a_counter_reads_what_is_appended_and_again_what_is_replaced(tmp_path: Path) -> None:
    counter = SampleCounter(tmp_path)
    with Journal(tmp_path, {}) as journal:
        journal.add(made("t/a/0", Status.failed))
        assert counter.count() == 1
        journal.add(made("t/b/0"))
        journal.add(made("t/a/0"))
        assert counter.count() == 2
        journal.close(map(journal.keys.add, ["t/a/0", "t/b/0"]), {})
        assert counter.count() == 2
    with Journal(tmp_path, {}) as journal:
        journal.add(made("t/c/0"))
    assert counter.count() == 3


def test_a_reader_keeps_to_the_file_that_it_has_opened(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        for name in "abc":
            journal.add(made(f"t/{name}/0"))
        records = RunFolder(tmp_path).records()
        first = next(records)
        journal.close(map(journal.keys.add, ["t/c/0", "t/b/0", "t/a/0"]), {})
        assert [one.id for one in (first, *records)] == ["a", "b", "c"]
