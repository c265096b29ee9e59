"""Variations of the planted faults: however large, wherever placed, they are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.core.event_loop import run_async
from launcher.core.types import Check, Outcome
from tests.fuzzing import examples
from tests.validate.faults import CHAT, COMPLETIONS, Body, Fault
from tests.validate.mock import Mock

FEW = hypothesis.settings(
    max_examples=examples(6), deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=False
)
FOUND = (Outcome.failed, Outcome.warning)
pytestmark = pytest.mark.fuzz


def found(mock: Mock, kind: str, act: Callable[..., Any], *checks: str) -> dict[str, Check]:
    """Return the checks of a server with the fault, no check but these."""
    fault = Fault("drawn", "drawn", checks, kind, act)
    return run_async(mock.certify(fault, frozenset(checks)))


def caught(mock: Mock, kind: str, act: Callable[..., Any], *checks: str) -> bool:
    made = found(mock, kind, act, *checks)
    return any(made[id].outcome in FOUND for id in checks)


@FEW
@given(shift=st.sampled_from([-9.0, -2.0, -0.6, -0.4]), every=st.integers(1, 3))
def test_scores_of_prompts_that_are_off(mock: Mock, shift: float, every: int) -> None:
    def act(path: str, asked: Body, answer: Body) -> None:
        if asked.get("echo"):
            lists = answer["choices"][0]["logprobs"]
            values = enumerate(lists["token_logprobs"])
            lists["token_logprobs"] = [value and value + shift * (at % every == 0) for at, value in values]
            lists["top_logprobs"] = [None for _ in lists["top_logprobs"]]

    assert caught(mock, "answer", act, "echo_agrees")


@FEW
@given(more=st.integers(1, 40))
def test_limits_that_are_higher(mock: Mock, more: int) -> None:
    def act(path: str, asked: Body) -> None:
        if isinstance(asked.get("max_tokens"), int):
            asked["max_tokens"] += more

    made = found(mock, "request", act, "max_tokens", "chat_max_tokens")
    assert [made[id].outcome for id in ("max_tokens", "chat_max_tokens")] == [Outcome.failed] * 2


@FEW
@given(limit=st.integers(1, 3))
def test_limits_that_are_bounded(mock: Mock, limit: int) -> None:
    """The answer is cut before its limit, and finish_reason says that the limit was reached."""

    def act(path: str, asked: Body) -> None:
        if isinstance(asked.get("max_tokens"), int):
            asked["max_tokens"] = min(limit, asked["max_tokens"])

    assert caught(mock, "request", act, "token_accounting")


@FEW
@given(
    field=st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens"]),
    by=st.integers(-6, 60).filter(bool),
)
def test_counts_that_are_off(mock: Mock, field: str, by: int) -> None:
    def act(path: str, asked: Body, answer: Body) -> None:
        if "usage" in answer:
            answer["usage"][field] += by

    assert caught(mock, "answer", act, "token_accounting", "chat_tokens")


@FEW
@given(
    path=st.sampled_from([COMPLETIONS, CHAT]),
    at=st.integers(0, 30),
    change=st.sampled_from([lambda text: text + "x", lambda text: "", lambda text: text * 2, lambda text: " " + text]),
)
def test_pieces_of_a_stream_that_differ(mock: Mock, path: str, at: int, change: Callable[[str], str]) -> None:
    def act(where: str, asked: Body, events: list[Body]) -> None:
        name = "content" if where == CHAT else "text"
        places = [choice.get("delta", choice) for event in events for choice in event.get("choices", ())]
        pieces = [place for place in places if place.get(name)]
        if where == path and pieces:
            piece = pieces[at % len(pieces)]
            piece[name] = change(piece[name])

    check = "chat_stream" if path == CHAT else "stream"
    assert caught(mock, "events", act, check)


@FEW
@given(at=st.integers(0, 69), to=st.sampled_from(["", "~", "\u00df", "  "]))
def test_prompts_that_are_changed(mock: Mock, at: int, to: str) -> None:
    def act(path: str, asked: Body) -> None:
        if isinstance(asked.get("prompt"), str):
            asked["prompt"] = asked["prompt"][:at] + to + asked["prompt"][at + 1 :]

    assert caught(mock, "request", act, "echo_aligned")


@FEW
@given(least=st.floats(0.3, 1.5))
def test_temperatures_that_are_higher(mock: Mock, least: float) -> None:
    def act(path: str, asked: Body) -> None:
        if "temperature" in asked:
            asked["temperature"] = max(least, asked["temperature"])

    assert caught(mock, "request", act, "greedy_repeats", "chat_repeats")


@FEW
@given(size=st.integers(20, 200))
def test_prompts_that_are_cut(mock: Mock, size: int) -> None:
    def act(path: str, asked: Body) -> None:
        if isinstance(asked.get("prompt"), str):
            asked["prompt"] = asked["prompt"][-size:]

    assert caught(mock, "request", act, "long_prompt")


@FEW
@given(scale=st.floats(1.44, 2.3))
def test_log_probabilities_in_another_unit(mock: Mock, scale: float) -> None:
    """To the base 2 they are 1.443 times as large."""

    def act(path: str, asked: Body, answer: Body) -> None:
        for choice in answer.get("choices", ()) if path == COMPLETIONS else ():
            if lists := choice.get("logprobs"):
                lists["token_logprobs"] = [value and value * scale for value in lists["token_logprobs"]]
                tops = lists["top_logprobs"]
                lists["top_logprobs"] = [top and {name: value * scale for name, value in top.items()} for top in tops]

    assert caught(mock, "answer", act, "completion", "calibrated")


@FEW
@given(times=st.floats(0.2, 0.6))
def test_temperatures_that_are_lower(mock: Mock, times: float) -> None:
    def act(path: str, asked: Body) -> None:
        if asked.get("temperature"):
            asked["temperature"] *= times

    assert caught(mock, "request", act, "completion", "calibrated")
