"""When readers are woken: at once for first and last tokens, and not at every step for other tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from launcher.engines.base import TokenLogprob, TokenOutput
from launcher.engines.runtime import output_buffer
from launcher.engines.runtime.output_buffer import OutputBuffer, join

FIRST, SECOND = TokenOutput((TokenLogprob(1),), prompt=(TokenLogprob(0),)), TokenOutput((TokenLogprob(2),))
LAST = TokenOutput((TokenLogprob(3),), finish="stop")


@pytest.fixture
def sent() -> list[Sequence[tuple[str, TokenOutput]]]:
    return []


@pytest.fixture
def box(sent: list[Sequence[tuple[str, TokenOutput]]], monkeypatch: pytest.MonkeyPatch) -> OutputBuffer:
    monkeypatch.setattr(output_buffer, "WAKE_INTERVAL_S", 1000.0)
    made = OutputBuffer(sent.append)
    made.add("other", FIRST)
    made.flush(everything=True)
    made.add("other", SECOND)
    made.flush(everything=True)
    sent.clear()
    return made


def test_first_and_last_tokens_do_not_wait(box: OutputBuffer, sent: list[Sequence[tuple[str, TokenOutput]]]) -> None:
    for tokens in (FIRST, SECOND, SECOND, LAST):
        box.add("a", tokens)
        box.add("other", SECOND)
        box.flush(everything=False)
    assert sent == [[("a", FIRST)], [("a", join([SECOND, SECOND, LAST]))]]
    box.flush(everything=True)
    assert sent[-1] == [("other", join([SECOND] * 4))]


def test_a_final_only_request_gets_nothing_between_first_and_last(
    box: OutputBuffer, sent: list[Sequence[tuple[str, TokenOutput]]]
) -> None:
    for tokens in (FIRST, SECOND, SECOND, LAST):
        box.add("a", tokens, final_only=True)
        box.flush(everything=True)
    assert sent == [[("a", FIRST)], [("a", join([SECOND, SECOND, LAST]))]]


def test_discarded_outputs_are_not_sent(box: OutputBuffer, sent: list[Sequence[tuple[str, TokenOutput]]]) -> None:
    box.add("other", SECOND)
    box.discard("other")
    box.flush(everything=True)
    assert sent == []


def test_events_join_in_order() -> None:
    whole = join([FIRST, SECOND, LAST])
    assert [t.token for t in whole.tokens] == [1, 2, 3]
    assert whole.prompt == FIRST.prompt
    assert whole.finish == "stop"
