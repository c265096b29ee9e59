from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.api.detokenizer import StopFilter, Utf8Decoder

pieces = st.lists(st.binary(max_size=4) | st.sampled_from(["é", "€", "😀", "a"]).map(str.encode), max_size=12)


@given(pieces)
def test_decoding_in_pieces_gives_what_decoding_at_once_gives(data: list[bytes]) -> None:
    decoder = Utf8Decoder()
    text = "".join(decoder.feed(piece)[1] for piece in data) + decoder.finish()
    assert text == b"".join(data).decode("utf-8", errors="replace")
    assert decoder.chars == len(text)


@given(pieces)
def test_an_offset_is_that_of_the_character_with_the_first_byte(data: list[bytes]) -> None:
    decoder = Utf8Decoder()
    for i, piece in enumerate(data):
        offset, _ = decoder.feed(piece)
        if piece:
            before = b"".join(data[:i])
            assert offset == len((before + piece[:1]).decode("utf-8", errors="replace")) - 1


def test_every_byte_of_a_character_has_its_offset() -> None:
    decoder = Utf8Decoder()
    fed = [decoder.feed(bytes([byte])) for byte in "a€b".encode()]
    assert fed == [(0, "a"), (1, ""), (1, ""), (1, "€"), (2, "b")]


def test_bytes_that_never_become_a_character_are_replaced_at_the_end() -> None:
    decoder = Utf8Decoder()
    assert decoder.feed("€".encode()[:2]) == (0, "")
    assert decoder.finish() == "\ufffd"


def shown(stops: list[str], parts: list[str]) -> tuple[str, bool]:
    stop = StopFilter(stops)
    text = ""
    for part in parts:
        text += stop.feed(part)
        if stop.hit:
            return text, True
    return text + stop.finish(), False


def by_character(stops: list[str], text: str) -> tuple[str, bool]:
    """The definition: read characters until the text ends in a stop string, and cut the longest such."""
    for end in range(1, len(text) + 1):
        found = [s for s in stops if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


letters = st.text("ab", max_size=14)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), letters, st.lists(st.integers(0, 14), max_size=6))
def test_a_stop_string_is_found_however_the_text_is_cut(stops: list[str], text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    parts = [text[a:b] for a, b in pairwise(places)]
    assert shown(stops, parts) == by_character(stops, text)


@pytest.mark.parametrize("part", ["x", "xE", "xEN"])
def test_what_may_become_a_stop_string_is_held_back(part: str) -> None:
    stop = StopFilter(["END"])
    assert stop.feed(part) == "x"
    assert not stop.hit


def test_a_held_beginning_is_shown_when_it_was_none() -> None:
    stop = StopFilter(["END"])
    assert [stop.feed("xEN"), stop.feed("o"), stop.finish()] == ["x", "ENo", ""]
    assert [stop.feed("yE"), stop.finish()] == ["y", "E"]
