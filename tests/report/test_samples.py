import json
from collections import Counter
from itertools import chain

import pytest

from launcher.core.records import to_json, to_line
from launcher.core.types import Status
from launcher.report import samples
from launcher.report.results import encode
from launcher.stats.overview import RESERVED, ROWS, Group
from tests.report.report_records import mixed, record, write_samples


def gathered(folder, records):
    """Return the rows that a page shows, as objects, and the overview that they were chosen by."""
    write_samples(folder, records)
    overview = samples.gather(folder)
    found = samples.rows(folder, overview)
    made = [json.loads(text) for text in found.texts]
    assert Counter(found.counts) == Counter(map(group, made))
    return made, overview


def group(row):
    if row["status"] != "scored":
        return Group.lost
    return Group.wrong if next(iter(row["scores"].values())) <= 0 else Group.other


def test_every_sample_of_a_small_file_is_shown_in_order_as_its_line(tmp_path):
    records = mixed(50)
    rows, overview = gathered(tmp_path, records)
    assert rows == [json.loads(to_line(one)) for one in records]
    assert overview.total == 50
    assert overview.counts[Group.lost] == sum(row.status is not Status.scored for row in records)


def test_a_missing_file_holds_no_samples(tmp_path):
    overview = samples.gather(tmp_path)
    assert (overview.total, samples.rows(tmp_path, overview).texts) == (0, [])


def test_of_many_samples_all_lost_ones_then_wrong_ones_and_the_first_others_are_shown(tmp_path):
    records = mixed(8_000)
    rows, overview = gathered(tmp_path, records)
    of = {each: [int(row["id"]) for row in rows if group(row) is each] for each in Group}
    every = {each: [int(one.id) for one in records if group(to_json(one)) is each] for each in Group}
    assert {each: len(found) for each, found in every.items()} == overview.counts
    assert (len(rows), len(every[Group.other]) > ROWS) == (ROWS, True)
    assert of[Group.lost] == every[Group.lost]
    assert of[Group.wrong] == every[Group.wrong][: ROWS - RESERVED - len(of[Group.lost])]
    assert of[Group.other] == every[Group.other][:RESERVED]
    assert [int(row["id"]) for row in rows] == sorted(chain(*of.values()))


def test_each_group_is_shown_even_if_too_many_were_lost(tmp_path):
    lost = [record(number, Status.unparsed) for number in range(ROWS + 10)]
    wrong = [record(len(lost) + number, right=False) for number in range(300)]
    right = [record(len(lost) + 300 + number) for number in range(100)]
    rows, _ = gathered(tmp_path, [*lost, *right, *wrong])
    assert Counter(map(group, rows)) == {Group.lost: ROWS - RESERVED - 100, Group.wrong: RESERVED, Group.other: 100}


def test_the_page_is_bounded_by_characters_too(tmp_path):
    big = "x" * samples.TEXT
    records = [record(n, responses=([big] * 4,), latency_s=1.0, right=n % 2 == 0) for n in range(150)]
    rows, overview = gathered(tmp_path, records)
    assert 50 < len(rows) < 150
    assert sum(len(json.dumps(row)) for row in rows) <= samples.CHARACTERS
    assert 0 < sum(group(row) is Group.other for row in rows) < sum(group(row) is Group.wrong for row in rows)
    assert overview.total == 150


def test_a_sample_that_was_asked_again_is_one_row(tmp_path):
    rows, overview = gathered(tmp_path, [record(1, Status.failed), record(2), record(1)])
    assert [(row["id"], row["status"]) for row in rows] == [("2", "scored"), ("1", "scored")]
    assert overview.counts == {Group.lost: 0, Group.wrong: 0, Group.other: 2}


def test_latencies_are_of_answered_samples(tmp_path):
    records = [
        record(1, latency_s=0.5),
        record(2, Status.truncated, latency_s=2.0),
        record(3, Status.failed, latency_s=9.0),
        record(4, latency_s=float("nan")),
        record(5, latency_s=1.0, task="other"),
    ]
    _, overview = gathered(tmp_path, records)
    found = {task: [value for value, _ in each.weights()] for task, each in overview.latencies.items()}
    assert found == {"addition": [0.5, 2.0], "other": [1.0]}
    assert [value for value, _ in overview.latency.weights()] == [0.5, 1.0, 2.0]


def test_long_text_loses_its_middle_and_says_so():
    short = samples.shorten("a" * 600_000 + "b" * 400_000)
    assert short.startswith("aaa")
    assert short.endswith("bbb")
    assert "980,000 characters left out" in short
    assert len(short) < samples.TEXT + 200


def test_long_lists_lose_their_end_and_say_so():
    short = samples.shorten({"tokens": list(range(5000)), "text": "kept"})
    assert short["text"] == "kept"
    assert short["tokens"][:200] == list(range(200))
    assert short["tokens"][200:] == ["… 4,800 more; samples.jsonl has them all"]
    assert samples.shorten({str(key): key for key in range(300)})["…"] == "100 more in samples.jsonl"


def test_what_is_still_too_long_is_shown_as_cut_text():
    short = samples.shorten([["x" * 1000] * 200] * 200)
    assert isinstance(short, str)
    assert len(short) < samples.TEXT + 200


def test_deep_nesting_ends():
    value: object = "deep"
    for _ in range(500):
        value = [value]
    assert "nested more deeply" in json.dumps(samples.shorten(value), ensure_ascii=False)


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    rows, _ = gathered(tmp_path, [record(1, responses=({"logprob": float("-inf")},))])
    assert rows[0]["response"] == {"logprob": None}


def nested(depth):
    value: object = "deep"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        *(nested(depth) for depth in range(samples.DEPTH - 2, samples.DEPTH + 4)),
        *({"a": list(range(count))} for count in (samples.ITEMS, samples.ITEMS + 1)),
        *(dict.fromkeys(map(str, range(count)), 1.5) for count in (samples.ITEMS, samples.ITEMS + 1)),
        *(["é" * count] for count in (samples.TEXT, samples.TEXT + 1)),
        *(["x" * 999] * count for count in (99, 110)),
        "\x00" * samples.TEXT,
        {"half": "\ud83d", "number": 10**30, "not finite": [float("nan"), float("-inf")]},
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_a_long_row_is_shortened_and_any_other_stays(tmp_path, value):
    asked = record(1, responses=(value,), prediction=value)
    rows, _ = gathered(tmp_path, [asked])
    whole = {name: value for name, value in json.loads(to_line(asked)).items() if name in samples.COLUMNS}
    short = {name: json.loads(encode(samples.shorten(value))) for name, value in whole.items()}
    assert rows[0] in ([short] if len(to_line(asked)) > samples.TEXT else [short, whole])
    assert set(rows[0]) == set(samples.COLUMNS)
