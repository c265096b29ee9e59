from __future__ import annotations

import errno
from pathlib import Path

import pytest

from launcher.core.errors import StorageError
from launcher.core.files import QUOTED, refused, replace


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert replace(tmp_path / "a" / "b" / "file", "text").read_text() == "text"
    assert replace(tmp_path / "a" / "b" / "file", [b"1", b"2"]).read_bytes() == b"12"


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
    assert refused(OSError(errno.ENOSPC, "No space left")) == "a file cannot be written: No space left"
    assert refused(OSError(errno.ECONNRESET, "Connection reset")) is None
    assert len(refused(OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000)) or "") < QUOTED + 30
