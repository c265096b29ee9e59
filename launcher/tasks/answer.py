"""Reads the text of an answer, or the reason why there is none to score."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.core.console import one_line
from launcher.core.types import Json, Response, Score, Status, is_object


def text_of(response: Response, *, accept_truncated: bool = False) -> str | Score:
    """Return the text of the first choice, or the `Score` of a sample that has no complete answer.

    These are checked in this order:

    - an answer without the expected shape is ``failed``;
    - one that a content filter stopped, or with a refusal, is ``refused``;
    - one whose reasoning is unfinished is ``truncated``;
    - one with ``finish_reason`` "length" is ``truncated`` unless ``accept_truncated``, because a match in an unfinished
      answer need not be its answer;
    - one with null content is ``refused``.
    """
    choice = _first_choice(response.body)
    if choice is None:
        return Score(Status.failed, reason="the answer has no choice with a text or a message")
    finish, message = choice.get("finish_reason"), choice.get("message")
    refusal = message.get("refusal") if is_object(message) else None
    if finish == "content_filter" or refusal:
        return Score(Status.refused, reason=one_line(str(refusal or "stopped by the content filter")))
    if choice.get("reasoning_unfinished"):
        return Score(Status.truncated, reason="the reasoning was not finished")
    if finish == "length" and not accept_truncated:
        return Score(Status.truncated, reason="cut at max_tokens (finish_reason is length)")
    text = choice["message"].get("content") if "message" in choice else choice["text"]
    if text is None:
        return Score(Status.refused, reason=f"the content is null (finish_reason is {finish})")
    if not isinstance(text, str):
        return Score(Status.failed, reason=f"the content is {type(text).__name__}, not a text")
    return text


def _first_choice(body: Json) -> Mapping[str, Json] | None:
    choices = body.get("choices") if is_object(body) else None
    if not isinstance(choices, list) or not choices or not is_object(choices[0]):
        return None
    choice = next((c for c in choices if is_object(c) and c.get("index") == 0), choices[0])
    shaped = is_object(choice.get("message")) or "text" in choice
    return choice if shaped else None
