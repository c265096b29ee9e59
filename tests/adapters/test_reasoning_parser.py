from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.adapters.reasoning_parser import ParsedDelta, ReasoningParser, UnmatchedEndTag

CASES = {
    "a reasoning, then the answer": ("<t>why</t>yes", ParsedDelta("yes", "why")),
    "text before the start is kept": ("well, <t>why</t>yes", ParsedDelta("well, yes", "why")),
    "the first end tag ends it": ("<t>why</t>yes </t> no", ParsedDelta("yes </t> no", "why")),
    "a second reasoning belongs to the answer": ("<t>a</t>b<t>c</t>d", ParsedDelta("b<t>c</t>d", "a")),
    "a start tag within the reasoning": ("<t>a<t>b</t>c", ParsedDelta("c", "a<t>b")),
    "no reasoning": ("yes", ParsedDelta("yes", "")),
    "an empty reasoning": ("<t></t>yes", ParsedDelta("yes", "")),
    "what only looks like a tag": ("a <t b </ c <", ParsedDelta("a <t b </ c <", "")),
    "nothing": ("", ParsedDelta()),
}


def split(text: str, cuts: list[int], **settings) -> tuple[ParsedDelta, bool]:
    parser = ReasoningParser("<t>", "</t>", **settings)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    total = ParsedDelta()
    for a, b in pairwise(edges):
        total += parser.feed(text[a:b])
    return total + parser.close(), parser.unfinished


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_every_cut_gives_the_same(text, expected):
    for i in range(len(text) + 1):
        for j in range(i, len(text) + 1):
            assert split(text, [i, j]) == (expected, False)
    assert split(text, list(range(len(text)))) == (expected, False)


@pytest.mark.parametrize("text", ["x<t>", "x<t>why", "x<t>why</", "x<t>why</t"])
def test_a_thought_without_its_end_is_unfinished(text):
    for cut in range(len(text) + 1):
        assert split(text, [cut]) == (ParsedDelta("x", text[4:]), True)


@pytest.mark.parametrize(
    ("text", "expected", "unfinished"),
    [
        ("why</t>yes", ParsedDelta("yes", "why"), False),
        ("<t>why</t>yes", ParsedDelta("yes", "why"), False),
        ("\n<t>why</t>yes", ParsedDelta("yes", "why"), False),
        ("a<t>why</t>yes", ParsedDelta("yes", "a<t>why"), False),
        ("why", ParsedDelta("", "why"), True),
        ("<t", ParsedDelta("", "<t"), True),
        ("", ParsedDelta(), True),
    ],
)
def test_text_that_begins_inside_the_thought(text, expected, unfinished):
    for i in range(len(text) + 1):
        for j in range(i, len(text) + 1):
            assert split(text, [i, j], inside=True) == (expected, unfinished)


def test_an_end_tag_without_a_start_tag_is_refused():
    for cut in range(9):
        with pytest.raises(UnmatchedEndTag, match="</t>"):
            split("why</t>yes<t>", [cut])


def test_text_is_released_as_soon_as_it_is_certain():
    parser = ReasoningParser("<think>", "</think>")
    assert parser.feed("Hel") == ParsedDelta("Hel")
    assert parser.feed("lo <") == ParsedDelta("lo ")
    assert parser.feed("3") == ParsedDelta("<3")
    assert parser.feed("<think>a") == ParsedDelta("", "a")
    assert parser.feed("b</thin") == ParsedDelta("", "b")
    assert parser.feed("g") == ParsedDelta("", "</thing")
    assert parser.feed("</think>c") == ParsedDelta("c")
    assert parser.feed("</think>") == ParsedDelta("</think>")


@given(st.text("<t/>a", max_size=12), st.lists(st.integers(0, 12), max_size=6), st.booleans())
def test_cuts_never_matter_and_no_text_is_lost(text, cuts, inside):
    try:
        whole, unfinished = split(text, [], inside=inside)
    except UnmatchedEndTag:
        with pytest.raises(UnmatchedEndTag):
            split(text, cuts, inside=inside)
        return
    assert split(text, cuts, inside=inside) == (whole, unfinished)
    dropped = len(text) - len(whole.answer) - len(whole.reasoning)
    assert dropped >= 0
    assert dropped == 0 or "<t>" in text or "</t>" in text
