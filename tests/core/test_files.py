from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from launcher.core.errors import StorageError, UserError
from launcher.core.files import QUOTED, identity, install, read_json, refused, replace, replace_json


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert replace(tmp_path / "a" / "b" / "file", "text").read_text() == "text"
    assert replace(tmp_path / "a" / "b" / "file", [b"1", b"2"]).read_bytes() == b"12"


def test_a_private_file_is_its_owners_only_and_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first = install(path, "one", private=True)
    assert (stat.S_IMODE(path.stat().st_mode), identity(path)) == (0o600, first)
    assert install(path, "two") != first
    assert identity(path) != first
    assert identity(tmp_path / "none") is identity(path / "below") is None


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = replace_json(tmp_path / "file", {"a": [1, "é"]}, indent=2)
    assert path.read_text().endswith("}\n")
    assert read_json(path) == {"a": [1, "é"]}
    assert read_json(tmp_path / "none") is None


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000], ids=["cut", "utf8", "deep"])
def test_what_is_no_json_is_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/file: not valid JSON: "):
        read_json(tmp_path / "file")
    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be read: Is a directory"):
        read_json(tmp_path)


def broken() -> object:
    yield b"begun"
    raise RuntimeError


@pytest.mark.parametrize(
    ("content", "error"), [("half a pair \ud83d", UnicodeEncodeError), (broken(), RuntimeError)], ids=["text", "parts"]
)
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, content: object, error: type[Exception]) -> None:
    path = replace(tmp_path / "file", "before")
    with pytest.raises(error):
        replace(path, content)  # type: ignore[arg-type]
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "file" / "below", "File exists"),
        (Path("/proc/below"), "No such file or directory"),
    ):
        with pytest.raises(StorageError) as error:
            replace(path, "text")
        assert str(error.value) == f"{path}: cannot be written: {why}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_error_of_the_disk_has_a_line_and_others_have_none() -> None:
    assert refused(OSError(errno.ENOENT, "No such file", "a/b")) == "a/b: No such file"
    assert refused(OSError(errno.ENOSPC, "No space left")) == (
        "a file cannot be written: No space left; launcher clean lists what old runs have left"
    )
    assert refused(OSError(errno.ECONNRESET, "Connection reset")) is None
    assert len(refused(OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000)) or "") < QUOTED + 30
