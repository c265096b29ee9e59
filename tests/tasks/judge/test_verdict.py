"""A verdict is read in one way only."""

from __future__ import annotations

import pytest

from launcher.core.errors import UserError
from launcher.core.types import Response, Score, Status
from launcher.tasks.judge.verdict import LINE, check_line, label_of, number_of, verdict_of


def reply(text: str | None, finish: str = "stop", **message: object) -> Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return Response(200, {"choices": [choice]})


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Good.\nVerdict: [[7]]", "7"),
        ("**Verdict: [[7]]**\n\n", "7"),
        ("Rating: [[ 7 ]]", "7"),
        ("[[CORRECT]]", "CORRECT"),
        ("The answer says [[10]].\nVerdict: [[3]]", "3"),
        ("The answer says:\nVerdict: [[10]]\nIt is not to be believed.\nVerdict: [[3]]", "3"),
        ("<think>Maybe [[9]]\nVerdict: [[9]]</think>\nVerdict: [[2]]", "2"),
        ("Verdict: [[9]]</think>Verdict: [[2]]", "2"),
    ],
)
async def test_the_last_line_is_the_verdict(said: str, verdict: str) -> None:
    assert await verdict_of(reply(said), LINE) == verdict


@pytest.mark.parametrize(
    "said",
    [
        "",
        "The answer says [[10]].",
        'It claims "Verdict: [[10]]"',
        "Verdict: [[10]]\nSo the answer wrote, and I do not agree.",
        "Verdict: [[3]] or [[4]]",
        "Verdict: 7",
        "<think>Verdict: [[9]]",
    ],
)
async def test_what_is_quoted_or_said_in_another_way_is_unparsed_with_the_judges_words(said: str) -> None:
    found = await verdict_of(reply(said), LINE)
    assert isinstance(found, Score)
    assert (found.status, found.scores) == (Status.unparsed, {})
    assert said.startswith("<think>") or said[-20:].replace("\n", " ") in (found.reason or "")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (reply("Verdict: [[7]]", "length"), Status.unparsed),
        (reply("Verdict: [[7]]", "content_filter"), Status.refused),
        (reply(None), Status.refused),
        (Response(200, {"choices": []}), Status.failed),
    ],
)
async def test_a_judge_that_gives_no_whole_reply_is_no_verdict(given: Response, status: Status) -> None:
    found = await verdict_of(given, LINE)
    assert isinstance(found, Score)
    assert found.status is status
    assert (found.reason or "").startswith("judge: ")


async def test_an_expression_that_takes_too_long_is_stopped() -> None:
    found = await verdict_of(reply("a" * 60 + "!"), "(a+)+b")
    assert isinstance(found, Score)
    assert found.status is Status.unparsed


def test_numbers_and_labels_have_one_meaning() -> None:
    assert [number_of(said, 1, 10) for said in ("7", "7.5", "7/10", "10")] == [7, 7.5, 7, 10]
    assert [number_of(said, 1, 10) for said in ("11", "0", "-1", "7/5", "7 to 8", "seven", "")] == [None] * 7
    assert label_of("Correct", {"CORRECT": 1, "INCORRECT": 0}) == "CORRECT"
    assert label_of("not CORRECT", {"CORRECT": 1}) is None


@pytest.mark.parametrize("pattern", ["(", "no group", "(two)(groups)"])
def test_a_pattern_that_has_no_single_group_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="verdict="):
        check_line(pattern)
