from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.adapters.reasoning_parser import Piece, ReasoningParser, StrayEnd

CASES = {
    "a thought, then the answer": ("<t>why</t>yes", Piece("yes", "why")),
    "text before the start is kept": ("well, <t>why</t>yes", Piece("well, yes", "why")),
    "the first end tag ends it": ("<t>why</t>yes </t> no", Piece("yes </t> no", "why")),
    "a second thought belongs to the answer": ("<t>a</t>b<t>c</t>d", Piece("b<t>c</t>d", "a")),
    "a start tag within the thought": ("<t>a<t>b</t>c", Piece("c", "a<t>b")),
    "no thought": ("yes", Piece("yes", "")),
    "an empty thought": ("<t></t>yes", Piece("yes", "")),
    "what only looks like a tag": ("a <t b </ c <", Piece("a <t b </ c <", "")),
    "nothing": ("", Piece()),
}


def split(text: str, cuts: list[int], **settings) -> tuple[Piece, bool]:
    splitter = ReasoningParser("<t>", "</t>", **settings)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    total = Piece()
    for a, b in pairwise(edges):
        total += splitter.feed(text[a:b])
    return total + splitter.close(), splitter.unfinished


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_every_cut_gives_the_same(text, expected):
    for i in range(len(text) + 1):
        for j in range(i, len(text) + 1):
            assert split(text, [i, j]) == (expected, False)
    assert split(text, list(range(len(text)))) == (expected, False)


@pytest.mark.parametrize("text", ["x<t>", "x<t>why", "x<t>why</", "x<t>why</t"])
def test_a_thought_without_its_end_is_unfinished(text):
    for cut in range(len(text) + 1):
        assert split(text, [cut]) == (Piece("x", text[4:]), True)


@pytest.mark.parametrize(
    ("text", "expected", "unfinished"),
    [
        ("why</t>yes", Piece("yes", "why"), False),
        ("<t>why</t>yes", Piece("yes", "why"), False),
        ("\n<t>why</t>yes", Piece("yes", "why"), False),
        ("a<t>why</t>yes", Piece("yes", "a<t>why"), False),
        ("why", Piece("", "why"), True),
        ("<t", Piece("", "<t"), True),
        ("", Piece(), True),
    ],
)
def test_text_that_begins_inside_the_thought(text, expected, unfinished):
    for i in range(len(text) + 1):
        for j in range(i, len(text) + 1):
            assert split(text, [i, j], inside=True) == (expected, unfinished)


def test_an_end_tag_without_a_start_tag_is_refused():
    for cut in range(9):
        with pytest.raises(StrayEnd, match="</t>"):
            split("why</t>yes<t>", [cut])


def test_text_is_released_as_soon_as_it_is_certain():
    splitter = ReasoningParser("<think>", "</think>")
    assert splitter.feed("Hel") == Piece("Hel")
    assert splitter.feed("lo <") == Piece("lo ")
    assert splitter.feed("3") == Piece("<3")
    assert splitter.feed("<think>a") == Piece("", "a")
    assert splitter.feed("b</thin") == Piece("", "b")
    assert splitter.feed("g") == Piece("", "</thing")
    assert splitter.feed("</think>c") == Piece("c")
    assert splitter.feed("</think>") == Piece("</think>")


@given(st.text("<t/>a", max_size=12), st.lists(st.integers(0, 12), max_size=6), st.booleans())
def test_cuts_never_matter_and_no_text_is_lost(text, cuts, inside):
    try:
        whole, unfinished = split(text, [], inside=inside)
    except StrayEnd:
        with pytest.raises(StrayEnd):
            split(text, cuts, inside=inside)
        return
    assert split(text, cuts, inside=inside) == (whole, unfinished)
    dropped = len(text) - len(whole.answer) - len(whole.thought)
    assert dropped >= 0
    assert dropped == 0 or "<t>" in text or "</t>" in text
