"""Items come from files of every format as they are in them, and what is wrong with a file is said with its place."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from launcher.core.errors import TaskError
from launcher.tasks import locations
from launcher.tasks.items import count, digest, read
from launcher.tasks.locations import search_beside

ROWS = [{"q": "1+1", "a": "2"}, {"q": 'say "hi",\nplease', "a": "hü"}]
CSV = 'q,a\n1+1,2\n"say ""hi"",\nplease",hü\n'


def fields(path, **how):
    return [dict(item.fields) for item in read(str(path), **how)]


def error_of(path, **how):
    with pytest.raises(TaskError) as error:
        fields(path, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


TEXTS = {
    "items.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "items.ndjson": "".join(json.dumps(row) + "\n" for row in ROWS),
    "items.json": json.dumps(ROWS, indent=1, ensure_ascii=False),
    "lines.json": "".join(json.dumps(row) + "\n" for row in ROWS),
    "items.csv": CSV,
    "crlf.csv": CSV.replace("\n", "\r\n").replace(",\r\nplease", ",\nplease"),
    "semicolon.csv": CSV.replace(",", ";").replace(";\n", ",\n"),
    "tab.csv": CSV.replace("q,a\n1+1,2", "q\ta\n1+1\t2").replace('",hü', '"\thü'),
    "items.tsv": CSV.replace("q,a\n1+1,2", "q\ta\n1+1\t2").replace('",hü', '"\thü'),
    "blank.csv": CSV + "\n\n",
    "UPPER.CSV": CSV,
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "bom"])
@pytest.mark.parametrize("zipped", [False, True], ids=["", "gz"])
def test_every_text_format_gives_the_same_items(tmp_path, name, mark, zipped):
    data = (mark + TEXTS[name]).encode()
    path = tmp_path / (name + ".gz" if zipped else name)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert fields(path) == ROWS
    assert (count(str(path)), len(digest(str(path)))) == (2, 64)
    assert fields(path, limit=1) == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"", "a.csv: no items"),
        ("a.csv", b"q,a\n", "a.csv: no items"),
        ("a.csv", b"q,a\n1,2\n3\n", "a.csv:3: 1 values, expected 2 (q, a)"),
        ("a.csv", b'q,a\n"x\ny",2\n3,4,5\n', "a.csv:4: 3 values, expected 2"),
        ("a.csv", b"q,a,q\n1,2,3\n", "a.csv:1: two columns are called 'q'"),
        ("a.csv", b"q,,b\n1,2,3\n", "a.csv:1: column 2 has no name"),
        ("a.csv", b'q,a\n1,"2\n3,4\n', "a.csv:2: unexpected end of data"),
        ("a.csv", b'q,a\n1,"2" x\n', "a.csv:2: ',' expected after"),
        ("a.csv", "q,a\n1,ü\n".encode("latin-1"), "a.csv:2: byte 3 is 0xfc, which is not UTF-8"),
        ("a.csv", "q,a\n1,2\n".encode("utf-16"), "a.csv: this is UTF-16; expected text in UTF-8"),
        ("a.csv", b"PK\x03\x04rest", "a ZIP archive, such as a spreadsheet"),
        ("a.json", b"", "a.json: no items"),
        ("a.json", b"[]", "a.json: no items"),
        ("a.json", b'[{"q": 1},\n {"q": }]', "a.json:2: not JSON"),
        ("a.json", b'[{"q": 1}, 3]', "a.json item 2: a JSON object is needed, this is a int"),
        ("a.json", b'{\n"q": 1\n}', "a.json:1: not JSON"),
        ("a.jsonl", b'{"q": 1, "q": 2}', "a.jsonl:1: not JSON that can be read: the key 'q' occurs twice"),
        ("a.jsonl", b'{"q": 1} x\n', "a.jsonl:1: not JSON: Extra data: line 1 column 10"),
        ("a.jsonl", '{"q": 1}\xa0\n'.encode(), "a.jsonl:1: not JSON: Extra data: line 1 column 9"),
        ("a.jsonl", '{"q": "ü"}'.encode("latin-1"), "a.jsonl:1: byte 8 is 0xfc, which is not UTF-8"),
        ("a.jsonl.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"q": 1}', mtime=0)[:12] + b"\xff" * 9, "cannot be read"),
        ("a.parquet", b"no parquet", "not a Parquet file"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, name, data, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(data)
    assert words in error_of(tmp_path / name)


def test_white_space_around_an_object_is_no_part_of_it(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"q": 1}\n  {"q": 2}  \r\n\t{"q": 3}\n\n{"q": 4}\r\n{"q": 5}')
    assert fields(tmp_path / "a.jsonl") == [{"q": n} for n in range(1, 6)]


def test_parquet_keeps_lists_structs_dates_and_nulls(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")

    row = {
        "q": "x",
        "choices": {"text": ["a", "b"], "label": ["A", "B"]},
        "day": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 2, 29, 12, 30),
        "price": Decimal("1.50"),
        "none": None,
        "raw": b"\xff",
        "deep": [{"n": 1}],
    }
    path = tmp_path / "items.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row] * 700), path)
    found = fields(path)
    plain = {"day": "2024-02-29", "at": "2024-02-29T12:30:00", "price": "1.50"}
    assert found[0] == {**row, **plain}
    assert (len(found), count(str(path))) == (700, 700)
    assert [item.where for item in read(str(path), 2)] == [f"{path} row 1", f"{path} row 2"]
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    parquet.write_table(twice, path)
    assert "two columns are called 'a'" in error_of(path)


def test_a_split_of_a_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    parts = {name: datasets.Dataset.from_list([{"x": name}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    assert fields(folder, split="test") == [{"x": "test"}]
    assert "split=none; expected one of train, test" in error_of(folder)
    assert "split=dev; expected one of train, test" in error_of(folder, split="dev")
    assert digest(str(folder), split="test") != digest(str(folder), split="train")
    (tmp_path / "a.csv").write_text(CSV)
    assert "split=x is for a folder" in error_of(tmp_path / "a.csv", split="x")
    assert "config=x is for a data set of a hub" in error_of(tmp_path / "a.csv", config="x")


HUB = """
import sys
from launcher.core.errors import TaskError
from launcher.tasks.items import count, digest, read
for arguments in (dict(config="one", split="test"), dict(config="one"), dict(), dict(config="zz"), dict(config="two")):
    try:
        found = [item.fields for item in read("hub:acme/caps", **arguments)]
        print("found", found, count("hub:acme/caps", **arguments), len(digest("hub:acme/caps", **arguments)))
    except TaskError as error:
        print(error)
try:
    list(read("hub:acme/none"))
except TaskError as error:
    print(error)
"""


def test_a_cached_data_set_of_a_hub(tmp_path):
    """Nothing is looked up in a network, in any environment."""
    datasets = pytest.importorskip("datasets")
    from datasets.arrow_writer import ArrowWriter
    from datasets.splits import SplitDict, SplitInfo

    for config, splits in (("one", ["train", "test"]), ("two", ["test"])):
        made, info = tmp_path / f"acme___caps/{config}/0.0.0/abc", SplitDict(dataset_name="caps")
        made.mkdir(parents=True)
        for split in splits:
            row = {"q": f"{config} {split}"}
            features = datasets.Dataset.from_list([row]).features
            with ArrowWriter(path=str(made / f"caps-{split}.arrow"), features=features) as writer:
                writer.write(row)
                writer.finalize()
            info.add(SplitInfo(split, num_bytes=1, num_examples=1, dataset_name="caps"))
        names = {"builder_name": "parquet", "dataset_name": "caps", "config_name": config, "version": "0.0.0"}
        datasets.DatasetInfo(features=features, splits=info, download_size=1, **names).write_to_directory(str(made))
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {"HF_DATASETS_CACHE": str(tmp_path)}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", HUB], capture_output=True, text=True, cwd=root, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, split, config, wrong, only, none = done.stdout.splitlines()
    assert first == "found [{'q': 'one test'}] 1 64"
    assert split == "hub:acme/caps: split=none; expected one of train, test"
    assert config == "hub:acme/caps: config is empty; expected one of those in the cache: one, two"
    assert "it has config one, two; where there is a network, run: python -c" in wrong
    assert only == "found [{'q': 'two test'}] 1 64"
    assert """python -c "import datasets; datasets.load_dataset('acme/none')\"""" in none


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("folder", "datasets")])
def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.parquet").touch()
    assert error_of(tmp_path / name).endswith(f"the package '{package}': pip install {package}")


def test_a_relative_path_is_found_beside_the_option_file(tmp_path, monkeypatch):
    work, options = tmp_path / "work", tmp_path / "options"
    (options / "tasks").mkdir(parents=True)
    work.mkdir()
    monkeypatch.chdir(work)
    search_beside([options])
    try:
        (options / "tasks/a.csv").write_text(CSV)
        assert fields("a.csv") == ROWS
        (options / "b.csv").write_text(CSV)
        assert fields("b.csv") == ROWS
        (work / "b.csv").write_text(CSV)
        assert "expected an absolute path, or one of them only" in error_of("b.csv")
        missing = error_of("c.csv")
        assert all(str(place / "c.csv") in missing for place in (work, options, options / "tasks"))
    finally:
        search_beside([])


def test_a_place_that_stands_for_two_is_named_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locations, "_beside", [tmp_path / "tasks", tmp_path])
    with pytest.raises(TaskError) as caught:
        locations.located("none.csv")
    assert str(caught.value).count(str(tmp_path / "none.csv")) == 1
