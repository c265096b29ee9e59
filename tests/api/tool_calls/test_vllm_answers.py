"""What vLLM's own parsers read in the texts of each form, recorded, beside what ours read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher

from launcher.api.detokenizer import TextDelta
from launcher.api.request_schema import Function
from launcher.api.structured import _bytes
from launcher.api.tool_calls.formats import FORMATS, format_of
from launcher.api.tool_calls.request import ToolUse
from tests.api.tool_calls.test_reading import calls_of

RECORD = json.loads((Path(__file__).parent / "vllm_answers.json").read_text())
CASES: list[dict[str, Any]] = RECORD["cases"]
END = ("the end of its call in a text", "the end of its call in JSON")
CUT = ("hermes", "qwen3_coder", "glm45", "glm47", "deepseek_v31", "kimi_k2", "deepseek_v32", "deepseek_v4")
"""Forms in which vLLM ends a call, or a value, at the first mark of its end."""


def use_of(case: dict[str, Any], forced: bool) -> ToolUse:
    form = format_of(case["form"], "[ARGS]" if case["form"] == "mistral" else "")
    assert form is not None
    tools = [Function(**tool["function"]) for tool in RECORD["tools"]]
    return ToolUse(form, tools, {}, forced=forced, single=False)


def ours(case: dict[str, Any], cut: bool) -> tuple[list[Any], str]:
    reader = use_of(case, case["case"] == "forced").reader()
    whole = TextDelta()
    for piece in case["text"] if cut else [case["text"]]:
        delta = TextDelta(piece)
        reader.read(delta)
        whole.add(delta)
    last = TextDelta(finish="stop")
    reader.read(last)
    whole.add(last)
    return [list(call) for call in calls_of(whole)], whole.text


@pytest.mark.parametrize("form", sorted({case["form"] for case in CASES}))
def test_ours_read_what_the_texts_hold(form: str) -> None:
    for case in CASES:
        if case["form"] != form:
            continue
        for cut in (False, True):
            found, text = ours(case, cut)
            if form == "llama3_json" and "not offered" in case["case"]:
                assert (found, text) == ([], case["text"])
            else:
                assert (found, text) == (case["calls"], ""), case


def test_vllm_reads_the_same_but_for_kinds_that_are_known() -> None:
    for case in CASES:
        known = case["case"] in END and case["form"] in CUT
        known = known or ("not offered" in case["case"] and case["form"] in ("glm45", "glm47"))
        assert (case["vllm"] != case["calls"]) == known, case


def test_forced_texts_are_those_of_the_grammars() -> None:
    counts: Counter[str] = Counter()
    for case in CASES:
        if case["case"] == "forced":
            matcher = LLMatcher(_bytes(), use_of(case, forced=True).grammar(), log_level=0)
            text = case["text"].encode()
            assert matcher.try_consume_tokens(list(text)) == len(text), case
            assert matcher.is_accepting(), case
            counts[case["form"]] += 1
    assert min(counts.values()) >= 4
    assert counts.keys() == {form.name for form in FORMATS} - {"pythonic"}, "a form is forced, and vLLM was not asked"
