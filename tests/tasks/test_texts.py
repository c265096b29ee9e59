from __future__ import annotations

import gzip
import json

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.texts import PATTERN, TextSource


def source(path, **settings):
    return TextSource(
        **{"path": str(path), "text": "text", "files": PATTERN, "id": "", "config": "", "split": ""} | settings
    )


def read(path, **settings):
    return [(text.id, text.text) for text in source(path, **settings).texts()]


def test_a_file_is_one_text_with_its_line_ends(tmp_path):
    (tmp_path / "my.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n caf\xc3\xa9 ")
    (tmp_path / "my.md.gz").write_bytes(gzip.compress(b"two"))
    assert read(tmp_path / "my.txt") == [("my.txt", "one\r\n\n café ")]
    assert read(tmp_path / "my.md.gz") == [("my.md.gz", "two")]


def test_a_folder_is_a_text_for_each_file(tmp_path):
    for name in ("b.txt", "sub/a.txt", "a.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in read(tmp_path)] == ["a.txt", "b.txt", "sub/a.txt"]
    assert [name for name, _ in read(tmp_path, files="*.md")] == ["notes.md"]


def test_items_have_a_field_or_a_template(jsonl, tmp_path):
    path = jsonl({"text": "one", "n": {"page": "p"}}, {"id": "x", "text": "two", "n": {"page": "q"}})
    assert read(path) == [("1", "one"), ("x", "two")]
    assert read(path, text="n.page") == [("1", "p"), ("x", "q")]
    assert read(path, text="{{text}}-{{n.page}}") == [("1", "one-p"), ("x", "two-q")]
    (tmp_path / "rows.csv").write_text("text,id\nthree,z\n")
    assert read(tmp_path / "rows.csv") == [("z", "three")]


def test_a_saved_data_set_is_no_folder_of_texts(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "one"}]).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == [("1", "one")]


@pytest.mark.parametrize(
    ("name", "data", "settings", "said"),
    [
        ("a.txt", b"ab\xff", {}, "byte 2 is not UTF-8"),
        ("a.txt", b"", {}, "a.txt: the text is empty"),
        ("a.txt.gz", b"no", {}, "a.txt.gz: cannot be read"),
        ("a.txt", b"x", {"split": "test"}, "split=test is for files of items"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ""}\n', {}, "a.jsonl:2: the text is empty"),
        ("a.jsonl", b'{"text": 3}\n', {}, "a.jsonl:1: text is int, expected a text"),
        ("a.jsonl", b'{"page": "x"}\n', {}, "field 'text' is missing; the item has page"),
        ("a.jsonl", json.dumps({"text": "\ud800"}).encode(), {}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_one_line(tmp_path, name, data, settings, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TaskError) as caught:
        read(tmp_path / name, **settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_without_texts_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match=r"no file in this folder matches files=\*\*/\*\.txt"):
        read(tmp_path / "empty")
    with pytest.raises(TaskError, match="is no pattern"):
        read(tmp_path / "empty", files="/etc/*")
    with pytest.raises(TaskError, match="there is no file or folder"):
        read(tmp_path / "none.txt")
    with pytest.raises(TaskError, match="path is empty"):
        list(source("").texts())


def test_the_digest_is_that_of_all_texts_and_their_names(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    before = source(tmp_path).digest()
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    renamed = source(tmp_path).digest()
    (tmp_path / "c.txt").write_text("other")
    assert len({before, renamed, source(tmp_path).digest()}) == 3
