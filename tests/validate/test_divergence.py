"""Greedy answers may part only where the two tokens are as good as equally likely."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.core.types import Check
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from launcher.validate.divergence import END, ScoredToken, divergence, scored_tokens
from tests.validate.lying import Lie, server

AT = 5


class Undecided:
    """Gives the first greedy answer as it is, and all later ones with another token at one position.

    There the two tokens are ``gap`` apart, in both answers. ``change`` is what else is done to an answer.
    """

    def __init__(self, gap: float, change: Lie | None = None) -> None:
        self.gap = gap
        self.change = change
        self.calls = 0

    def __call__(self, path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        if asked.get("max_tokens") != 12 or "stop" in asked:
            return
        self.calls += 1
        choice = answer["choices"][0]
        logprobs = choice["logprobs"]
        first, second = logprobs["tokens"][AT], "Z"
        chosen, other = (first, second) if self.calls == 1 else (second, first)
        logprobs["top_logprobs"][AT] = {chosen: -0.7, other: -0.7 - self.gap}
        logprobs["token_logprobs"][AT] = -0.7
        if self.calls > 1:
            logprobs["tokens"][AT:] = [chosen, *["x"] * (len(logprobs["tokens"]) - AT - 1)]
            choice["text"] = "".join(logprobs["tokens"])
        if self.change is not None:
            self.change(path, asked, answer)


def without_logprobs(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    answer["choices"][0]["logprobs"] = None


def without_the_other(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    top = answer["choices"][0]["logprobs"]["top_logprobs"][AT]
    answer["choices"][0]["logprobs"]["top_logprobs"][AT] = dict(list(top.items())[:1])


def a_third_is_likelier(path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    answer["choices"][0]["logprobs"]["top_logprobs"][AT]["Q"] = -0.1


async def greedy_check(folder: Path, lie: Lie, is_builtin: bool = True, **settings: Any) -> Check:
    names = [name for name in certificate.NAMES if name not in ("greedy repeats", "rounding")]
    with server(folder, lie) as endpoint:
        asked = replace(endpoint, is_builtin=is_builtin)
        checks = await certificate.validate(
            asked, Validate(skip=names, timeout_s=20, **settings), frozenset(Capability)
        )
    return next(check for check in checks if check.name == "greedy repeats")


async def test_answers_that_part_at_a_near_tie_are_accepted_and_it_is_said(tmp_path: Path) -> None:
    found = await greedy_check(tmp_path, Undecided(5e-5))
    assert found.ok, found
    assert "4 of 4 answers diverge at a near-tie: token 6 is" in found.detail
    assert "'Z'" in found.detail


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (Undecided(0.01), "0.01 nats apart"),
        (Undecided(5e-5, without_logprobs), "both texts must be equal"),
        (Undecided(5e-5, without_the_other), "not among the likeliest"),
        (Undecided(5e-5, a_third_is_likelier), "0.6 nats apart"),
    ],
)
async def test_answers_that_part_anywhere_else_are_not(tmp_path: Path, lie: Lie, said: str) -> None:
    found = await greedy_check(tmp_path, lie)
    assert found.ok is False
    assert said in found.detail


async def test_a_server_of_others_is_held_to_the_type_that_it_reports(tmp_path: Path) -> None:
    """The server under test reports fp64, of which no tolerance is above 1e-4; bf16's would be 0.25."""
    found = await greedy_check(tmp_path, Undecided(0.01), is_builtin=False)
    assert found.ok is False
    assert "fp64, as the server reports" in found.detail


async def test_a_tolerance_that_is_given_decides(tmp_path: Path) -> None:
    assert (await greedy_check(tmp_path, Undecided(0.01), tolerance=0.1)).ok
    assert (await greedy_check(tmp_path, Undecided(5e-5), tolerance=1e-5)).ok is False


def test_an_answer_that_ends_where_another_goes_on_parts_there() -> None:
    one = [ScoredToken("a", -0.1, {"a": -0.1, "b": -2.0}), ScoredToken("c", -0.6, {"c": -0.6, "d": -0.7})]
    found = divergence(one[:1], one)
    assert found is not None
    assert (found.position, found.tokens) == (1, ("c", END))
    assert found.gap == pytest.approx(0.1)
    assert divergence(one, one) is None


def test_a_server_without_alternatives_has_no_steps() -> None:
    assert scored_tokens({"choices": [{"logprobs": None}]}) is None
    assert (
        scored_tokens({"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None}}]})
        is None
    )
