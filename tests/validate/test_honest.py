"""What sound servers do differently from ours is no fault: their answers get the same certificate."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from launcher.core.types import Check, Outcome
from tests.validate.faults import CHAT, Body, Fault, Send
from tests.validate.mock import Mock

UNASKED = {"ready", "forward_pass", "token_prompts", "chat_bos_once", "tokenizer_file", "key_needed", "next_token"}
"""What a server without the launcher's routes cannot be asked."""


def _refusal(message: str, status: int = 400) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


def _lists(found: Body) -> list[Body]:
    choices = found.get("choices", ())
    return [choice["logprobs"] for choice in choices if "text" in choice and choice.get("logprobs")]


async def vllm(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """vLLM: parts joined by line feeds, offsets in the joined tokens, more fields, one greedy answer at most."""
    for message in asked.get("messages", ()):
        if isinstance(message["content"], list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
    if asked.get("prompt") == "":
        return _refusal("Either prompt or prompt_embeds must be provided and non-empty.")
    if asked.get("temperature") == 0 and asked.get("n", 1) > 1:
        return _refusal("n must be 1 when using greedy sampling, got 2.")
    status, found = await send(asked)
    if path == "/v1/models":
        found["data"][0] |= {"owned_by": "vllm", "parent": None, "permission": []}
    for choice in found.get("choices", ()):
        choice |= {"stop_reason": None, "token_ids": None, "prompt_logprobs": None}
    for lists in _lists(found):
        sizes = map(len, lists["tokens"])
        lists["text_offset"] = list(accumulate(sizes, initial=0))[:-1]
        lists["top_logprobs"] = [top and top | {"another": min(top.values()) - 9} for top in lists["top_logprobs"]]
    if "choices" in found:
        found |= {"system_fingerprint": None, "service_tier": None, "kv_transfer_params": None}
    return status, found


async def bf16(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """A server in bf16, whose log-probabilities change by rounding from request to request."""
    status, found = await send(asked)
    for lists in _lists(found):
        state["calls"] = state.get("calls", 0) + 1
        off = 0.01 * (state["calls"] % 5)
        lists["token_logprobs"] = [value and value - off for value in lists["token_logprobs"]]
        lists["top_logprobs"] = [top and {k: v - off for k, v in top.items()} for top in lists["top_logprobs"]]
    return status, found


async def tgi(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """TGI: finish reasons of its own, errors as a text, no field that is not set."""
    status, found = await send(asked)
    for choice in found.get("choices", ()):
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "stop_sequence" if asked.get("stop") else "eos_token"
        if choice.get("logprobs") is None:
            choice.pop("logprobs", None)
    return (status, found) if status == 200 else (422, {"error": found["error"]["message"], "error_type": "validation"})


async def openai(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """OpenAI: the version's date in the model's name, other fields refused, several models listed."""
    if "repetition_penalty" in asked:
        return _refusal("Unrecognized request argument supplied: repetition_penalty")
    status, found = await send(asked)
    if path == "/v1/models":
        found["data"].append({"id": "other", "object": "model", "created": 1, "owned_by": "openai"})
    if "choices" in found:
        found["model"] = "mock-2026-08-06"
        found["usage"]["prompt_tokens_details"] = {"cached_tokens": 0}
    for choice in found.get("choices", ()):
        if path == CHAT:
            choice["message"] |= {"annotations": [], "audio": None}
    return status, found


async def llama_cpp(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """llama.cpp: the least float for minus infinity, and numbers about the time."""
    status, found = await send(asked)
    for lists in _lists(found):
        least = -3.4028234663852886e38
        lists["top_logprobs"] = [top and top | {"\x00": least} for top in lists["top_logprobs"]]
    return status, found | ({"timings": {"predicted_ms": 1.0}} if "choices" in found else {})


async def sglang(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """SGLang: -1 for each offset, and further fields."""
    status, found = await send(asked)
    for lists in _lists(found):
        lists["text_offset"] = [-1 for _ in lists["text_offset"]]
    for choice in found.get("choices", ()):
        choice["matched_stop"] = None
    return status, found


@pytest.mark.parametrize("server", [vllm, bf16, tgi, openai, llama_cpp, sglang], ids=lambda server: server.__name__)
async def test_an_honest_server_of_another_program_passes(mock: Mock, server: Any) -> None:
    checks = await mock.certify(Fault(server.__name__, "", (), "call", server))
    others = {id: check for id, check in checks.items() if check.outcome is not Outcome.passed}
    streams = {"stream", "chat_stream"} if server is tgi else set()  # the streams stay as they are
    assert set(others) - streams == UNASKED, {id: _said(check) for id, check in others.items() if id not in UNASKED}


def own_system(path: str, asked: Body) -> None:
    """A template begins with a system message of its own, unless there is one, as SmolLM2's and Qwen2.5's do."""
    messages = asked.get("messages", ())
    if path == CHAT and messages and messages[0]["role"] not in ("system", "developer"):
        own = "You are a helpful assistant, and your long name is said here as in templates of known models."
        asked["messages"] = [{"role": "system", "content": own}, *messages]


async def test_a_template_with_a_system_message_of_its_own_passes(mock: Mock) -> None:
    checks = await mock.certify(Fault("own_system", "", (), "request", own_system))
    assert checks["system_message"].detail == "it replaces the template's own"
    assert checks["system_message"].outcome is Outcome.passed


async def without_usage(state: Body, path: str, asked: Body, send: Send) -> tuple[int, Any]:
    """Token counts are missing, and high temperatures are refused."""
    if (asked.get("temperature") or 0) > 1:
        return _refusal("temperature: must be at most 1")
    status, found = await send(asked)
    found.pop("usage", None)
    return status, found


async def test_a_server_that_counts_no_tokens_only_warns_at_chats(mock: Mock) -> None:
    checks = await mock.certify(Fault("without_usage", "", (), "call", without_usage))
    failed = {id for id, check in checks.items() if check.outcome is Outcome.failed}
    assert not {id for id in failed if id.startswith("chat")} - {"chat_choices"}
    assert {"token_accounting"} <= failed
    assert checks["chat_tokens"].outcome is Outcome.warning
    assert checks["chat_temperature"].outcome is Outcome.warning


def _said(check: Check) -> str:
    return f"{check.outcome.value}: {check.detail}"
