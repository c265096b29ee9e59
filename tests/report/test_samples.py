import json

import pytest

from launcher.core.types import Status
from launcher.report import samples
from launcher.report.results import encode
from tests.report.report_records import mixed, record, write_samples


def gathered(folder, records):
    write_samples(folder, records)
    return samples.gather(folder)


def test_every_sample_of_a_small_file_is_shown_in_order(tmp_path):
    records = mixed(50)
    found = gathered(tmp_path, records)
    rows, lost = found.shown()
    assert [json.loads(row)["id"] for row in rows] == [row.id for row in records]
    assert (found.total, lost) == (50, sum(row.status is not Status.scored for row in records))


def test_a_missing_file_holds_no_samples(tmp_path):
    found = samples.gather(tmp_path)
    assert (found.total, found.shown()) == (0, ([], 0))


def test_of_many_samples_all_lost_ones_and_the_first_scored_ones_are_shown(tmp_path):
    records = mixed(10_000)
    found = gathered(tmp_path, records)
    rows, lost = found.shown()
    ids = [int(json.loads(row)["id"]) for row in rows]
    expected = [int(row.id) for row in records if row.status is not Status.scored]
    scored = [int(row.id) for row in records if row.status is Status.scored][: samples.ROWS - len(expected)]
    assert (len(rows), lost, found.total) == (samples.ROWS, len(expected), 10_000)
    assert ids == sorted(expected + scored)


def test_scored_samples_are_shown_even_if_too_many_were_lost(tmp_path):
    lost = [record(number, Status.unparsed) for number in range(samples.ROWS + 10)]
    found = gathered(tmp_path, [*lost, *(record(samples.ROWS + 10 + number) for number in range(900))])
    rows, shown_lost = found.shown()
    assert (len(rows), shown_lost) == (samples.ROWS, samples.ROWS - samples.RESERVED)


def test_the_page_is_bounded_by_characters_too(tmp_path):
    big = "x" * samples.TEXT
    records = [record(number, responses=([big] * 4,), latency_s=1.0) for number in range(400)]
    found = gathered(tmp_path, records)
    rows, _ = found.shown()
    assert sum(map(len, rows)) <= samples.CHARACTERS
    assert 200 < len(rows) < 400
    assert found.total == 400


def test_a_sample_that_was_asked_again_is_one_row(tmp_path):
    found = gathered(tmp_path, [record(1, Status.failed), record(2), record(1)])
    rows, lost = found.shown()
    assert [(row["id"], row["status"]) for row in map(json.loads, rows)] == [("2", "scored"), ("1", "scored")]
    assert (found.total, lost) == (2, 0)


def test_latencies_are_of_answered_samples(tmp_path):
    records = [
        record(1, latency_s=0.5),
        record(2, Status.truncated, latency_s=2.0),
        record(3, Status.failed, latency_s=9.0),
        record(4, latency_s=float("nan")),
        record(5, latency_s=1.0, task="other"),
    ]
    assert gathered(tmp_path, records).latencies == {"addition": [0.5, 2.0], "other": [1.0]}


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
    rows, _ = gathered(tmp_path, [record(1, responses=({"logprob": float("-inf")},))]).shown()
    assert json.loads(rows[0])["response"] == {"logprob": None}


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
def test_a_row_is_the_same_whether_or_not_it_needs_shortening(tmp_path, value):
    asked = record(1, responses=(value,), prediction=value)
    rows, _ = gathered(tmp_path, [asked]).shown()
    short = json.loads(encode(samples.shorten(value)))
    assert (json.loads(rows[0])["response"], json.loads(rows[0])["prediction"]) == (short, short)
    assert set(json.loads(rows[0])) == set(samples.COLUMNS)
