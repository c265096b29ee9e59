from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.api.detokenizer import Choice, Detokenizer, StopFilter, TextDelta, Utf8Decoder, text_deltas
from launcher.core.tokenizer import ByteTokenizer
from launcher.engines.base import GenerationRequest, Sampling, TokenLogprob, TokenOutput
from tests.api.runners import Scripted, said


def choice(prompt: str = "p", stop: tuple[str, ...] = (), echo: bool = False, logprobs: int | None = 0) -> Choice:
    sampling = Sampling(logprobs=logprobs, prompt_logprobs=logprobs if echo else None)
    return Choice(
        0, GenerationRequest("id", tuple(prompt.encode()), sampling), stop, shown(prompt.encode()) if echo else ()
    )


def shown(prompt: bytes) -> tuple[bytes, ...]:
    return tuple(bytes([byte]) for byte in prompt)


def written(events: list[TokenOutput], asked: Choice) -> list[TextDelta]:
    writer = Detokenizer(ByteTokenizer(), asked)
    found = []
    for event in events:
        found.append(writer.delta(event))
        if found[-1].finish:
            break
    return found


def whole(events: list[TokenOutput], asked: Choice) -> TextDelta:
    total = TextDelta()
    for piece in written(events, asked):
        total.add(piece)
    return total


def offsets(piece: TextDelta) -> list[int]:
    return [placed.offset for placed in piece.tokens]


EOS = TokenLogprob(256, -0.25)


def test_the_end_of_sequence_is_listed_and_counted_but_has_no_text() -> None:
    found = whole([said("ab"), TokenOutput((EOS,), finish="stop")], choice())
    assert (found.text, found.generated, found.finish) == ("ab", 3, "stop")
    assert offsets(found) == [0, 1, 2]


def test_an_end_of_sequence_token_that_has_bytes_is_not_shown() -> None:
    found = whole([said("ab\n", "stop")], choice())
    assert found.text == "ab"
    assert offsets(found) == [0, 1, 2]


def test_tokens_of_a_stop_string_are_counted_but_not_listed() -> None:
    found = whole([said("abENDxyz", "length")], choice(stop=("END",)))
    assert (found.text, found.generated, found.finish) == ("ab", 5, "stop")
    assert offsets(found) == [0, 1]


def test_a_stop_string_on_the_last_token_is_a_stop() -> None:
    assert whole([said("abEND", "length")], choice(stop=("END",))).finish == "stop"


def test_an_unfinished_character_at_the_end_is_replaced_and_can_stop() -> None:
    half = "€".encode()[:2]
    assert whole([said(half, "length")], choice()).text == "\ufffd"
    stopped = whole([said(b"a" + half, "length")], choice(stop=("\ufffd",)))
    assert (stopped.text, stopped.finish) == ("a", "stop")


def test_echo_puts_the_prompt_first_and_stops_match_only_what_was_generated() -> None:
    prompt = tuple(map(TokenLogprob, b"END"))
    first = said("ab")
    events = [TokenOutput(first.tokens, prompt), said("ENDx", "length")]
    found = whole(events, choice("END", stop=("END",), echo=True))
    assert (found.text, found.generated, found.finish) == ("ENDab", 5, "stop")
    assert offsets(found) == [0, 1, 2, 3, 4]


def test_a_character_may_begin_in_the_prompt_and_end_in_the_answer() -> None:
    data = "€".encode()
    asked = Choice(0, GenerationRequest("id", tuple(data[:2]), Sampling()), (), shown(data[:2]))
    assert whole([said(data[2:], "length")], asked).text == "€"


text = st.text("abE€", max_size=10)


@given(
    text, st.lists(st.integers(0, 30), max_size=5), st.sampled_from([(), ("E",), ("ab", "€"), ("bE",)]), st.booleans()
)
def test_pieces_say_the_same_however_tokens_come_together(
    said_text: str, cuts: list[int], stop: tuple[str, ...], echo: bool
) -> None:
    tokens = said(said_text).tokens
    places = [0, *sorted(min(c, len(tokens)) for c in cuts), len(tokens)]
    parts = [TokenOutput(tokens[a:b]) for a, b in pairwise(places)]
    end = TokenOutput((EOS,), finish="stop")
    asked = choice("p€", stop, echo)
    assert whole([*parts, end], asked) == whole([TokenOutput((*tokens, EOS), finish="stop")], asked)


@given(text, st.sampled_from([("E",), ("ab", "€"), ("bE",)]))
def test_listed_tokens_begin_in_the_text_shown_so_far(said_text: str, stop: tuple[str, ...]) -> None:
    events = [*(said(bytes([b])) for b in said_text.encode()), TokenOutput((EOS,), finish="stop")]
    shown = 0
    for piece in written(events, choice(stop=stop)):
        shown += len(piece.text)
        assert all(offset < shown or piece.finish for offset in offsets(piece))


async def test_a_stop_string_closes_the_generation() -> None:
    runner = Scripted([said("aEND"), said("more"), said("more", "length")])
    found = [piece async for piece in text_deltas(runner, choice(stop=("END",)))]
    assert [piece.text for piece in found] == ["a"]
    assert runner.open == 0


async def test_closing_the_pieces_closes_the_generation() -> None:
    runner = Scripted([said("a"), said("b", "length")])
    found = text_deltas(runner, choice())
    await anext(found)
    assert runner.open == 1
    await found.aclose()
    assert runner.open == 0


cuts = st.lists(st.binary(max_size=4) | st.sampled_from(["é", "€", "😀", "a"]).map(str.encode), max_size=12)


@given(cuts)
def test_decoding_in_pieces_gives_what_decoding_at_once_gives(data: list[bytes]) -> None:
    decoder = Utf8Decoder()
    text = "".join(decoder.feed(piece)[1] for piece in data) + decoder.finish()
    assert text == b"".join(data).decode("utf-8", errors="replace")
    assert decoder.chars == len(text)


@given(cuts)
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


def filtered(stops: list[str], parts: list[str]) -> tuple[str, bool]:
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
    assert filtered(stops, parts) == by_character(stops, text)


@pytest.mark.parametrize("part", ["x", "xE", "xEN"])
def test_what_may_become_a_stop_string_is_held_back(part: str) -> None:
    stop = StopFilter(["END"])
    assert stop.feed(part) == "x"
    assert not stop.hit


def test_a_held_beginning_is_shown_when_it_was_none() -> None:
    stop = StopFilter(["END"])
    assert [stop.feed("xEN"), stop.feed("o"), stop.finish()] == ["x", "ENo", ""]
    assert [stop.feed("yE"), stop.finish()] == ["y", "E"]
