from __future__ import annotations

import gzip
import hashlib
from itertools import islice
from pathlib import Path

import pytest

from launcher.core.errors import TaskError
from launcher.tasks.generation import Generation
from launcher.tasks.items import count, digest, identified, read


def test_items_come_in_file_order_with_their_place(jsonl):
    path = jsonl({"id": "b", "x": 1}, "", {"id": "a", "x": 2})
    items = list(read(path))
    assert [item.fields["x"] for item in items] == [1, 2]
    assert [item.where for item in items] == [f"{path}:1", f"{path}:3"]
    assert count(path) == 2


def test_items_are_read_lazily(jsonl):
    path = jsonl({"x": 1}, {"x": 2}, "broken")
    assert [item.fields["x"] for item in islice(read(path), 2)] == [1, 2]


def test_limit_takes_the_first(jsonl):
    assert [item.number for item in read(jsonl({}, {}, "broken"), limit=2)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{'x': 1}", "not JSON"), ('{"x": 1', "not JSON"), ("[1]", "a JSON object is needed"), ("3", "int")],
)
def test_a_malformed_line_is_named_with_its_file(jsonl, line, reason):
    path = jsonl({"x": 1}, line)
    with pytest.raises(TaskError, match=reason) as error:
        list(read(path))
    assert str(error.value).startswith(f"{path}:2: ")


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"x": 1}\n{"x": "\xff"}\n')
    with pytest.raises(TaskError, match=r"x\.jsonl:2"):
        list(read(str(tmp_path / "x.jsonl")))


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_items_is_refused(jsonl, lines):
    with pytest.raises(TaskError, match="no items"):
        list(read(jsonl(*lines)))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/nowhere/items.jsonl", "there is no file"), ("package:no_such_package_here/x", "is not installed")],
)
def test_what_is_not_there_is_named(path, reason):
    with pytest.raises(TaskError, match=reason) as error:
        list(read(path))
    assert path in str(error.value)


def test_fields_are_found_by_dotted_path(jsonl):
    [item] = read(jsonl({"choices": {"text": ["a"]}, "n": None}))
    assert item.get("choices.text") == ["a"]
    assert item.get("n") is None
    with pytest.raises(TaskError, match=r"items\.jsonl:1: field 'choices\.label' is missing; the item has choices, n"):
        item.get("choices.label")
    with pytest.raises(TaskError, match=r"'n\.x' is missing"):
        item.get("n.x")


def test_ids_are_a_field_or_the_number(jsonl):
    def ids(path, field=""):
        return [name for name, _ in identified(read(path), field)]

    assert ids(jsonl({"id": "x"}, {}, {"id": 7})) == ["x", "2", "7"]
    assert ids(jsonl({"q": {"n": 1}}), "q.n") == ["1"]
    with pytest.raises(TaskError, match="field 'key' is missing"):
        ids(jsonl({"id": 1}), "key")
    with pytest.raises(TaskError, match=r"items\.jsonl:3: id 'x' is already that of .*items\.jsonl:1"):
        ids(jsonl({"id": "x"}, {"id": "y"}, {"id": "x"}))


def test_ids_are_compared_again_only_if_the_file_has_changed(jsonl):
    task = Generation(path=jsonl({"id": "x"}, {"id": "y"}), prompt="{{id}}", target="id")
    assert [name for name, _ in task.rows()] == [name for name, _ in task.rows()] == ["x", "y"]
    jsonl({"id": "x"}, {"id": "y"}, {"id": "x"})
    for _ in range(2):
        with pytest.raises(TaskError, match=r"items\.jsonl:3: id 'x' is already that of .*items\.jsonl:1"):
            list(task.rows())


def test_gzipped_lines(tmp_path: Path):
    path = tmp_path / "items.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"x": 1}\n{"x": 2}\n')
    assert [item.fields["x"] for item in read(str(path))] == [1, 2]
    assert count(str(path)) == 2
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TaskError, match="cannot be read"):
        list(read(str(path)))


def test_the_digest_is_that_of_the_file(jsonl):
    path = jsonl({"x": 1})
    assert digest(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"id": "a", "choices": {"text": ["x", "y"]}}, {"id": "b", "choices": {"text": ["z"]}}]
    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    items = list(read(folder))
    assert [item.fields["id"] for item in items] == ["a", "b"]
    assert items[1].get("choices.text") == ["z"]
    assert items[1].where == f"{folder} row 2"
    assert (count(folder), len(digest(folder))) == (2, 64)
    assert len(list(read(folder, limit=1))) == 1


def test_a_folder_that_is_no_data_set(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(TaskError, match="save_to_disk"):
        list(read(str(tmp_path)))


def test_a_data_set_of_several_splits_asks_for_one(tmp_path):
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list([{"x": 1}])
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(TaskError, match="train, test"):
        list(read(str(tmp_path / "saved")))
