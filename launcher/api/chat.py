"""``POST /v1/chat/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from starlette.requests import Request
from starlette.responses import Response

from launcher.api.detokenizer import CallDelta, TextDelta
from launcher.api.generation import GenerationJob, ResponseFormatter, Usage, answer
from launcher.api.logprobs import for_chat
from launcher.api.request_schema import ChatRequest, Message
from launcher.api.sampling import Prompt, check_bias, check_choices, check_tokens, choices, token_limit
from launcher.api.service import Service, service_of
from launcher.api.structured import Grammar, grammar_of, grammar_of_calls
from launcher.api.threads import run_in_template_thread, run_in_thread_if_large
from launcher.api.tool_calls.messages import for_template
from launcher.api.tool_calls.request import NO_TOOLS, ToolUse, tool_use_of
from launcher.asgi.errors import clipped, invalid
from launcher.core.tokenizer import NoChatTemplate, Rendering, Tokenizer, ToolsNotRead
from launcher.core.types import Json


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, rendered by the model's own chat template."""
    service = service_of(request)
    body = await service.read(request, ChatRequest)
    service.name(body.model)
    check_bias(body, service.engine)
    check_choices(body, 1, service.engine)
    prompt = await render(body.messages, body.rendering(), service.engine.tokenizer)
    tools = tool_use_of(body, service.engine)
    grammar = await (grammar_of(body, service.engine) if tools is None else grammar_of_calls(tools))
    return await answer(request, service, _job(body, prompt, service, grammar, tools))


async def render(messages: Sequence[Message], how: Rendering, tokenizer: Tokenizer) -> Prompt:
    """Return the prompt's tokens. Raises `ApiError` 400 without a template, or with the template's own message.

    A template is code from the checkpoint: it runs beside the event loop, which goes on.
    """
    plain = for_template(messages)
    if how.add_generation_prompt and how.continue_final_message:
        raise invalid("continue_final_message", "continue_final_message: needs add_generation_prompt=false")
    try:
        if tokenizer.blocks:
            text = await run_in_template_thread(lambda: tokenizer.render_chat(plain, how))
        else:
            text = tokenizer.render_chat(plain, how)
    except NoChatTemplate as error:
        reason = clipped(str(error)) or "the model has no chat template; use /v1/completions"
        raise invalid("messages", reason, "no_chat_template") from None
    except ToolsNotRead as error:
        raise invalid("tools" if how.tools else "messages", clipped(str(error)), NO_TOOLS) from None
    except ValueError as error:
        raise invalid("messages", f"messages: the chat template refuses them: {clipped(str(error))}") from None
    return await run_in_thread_if_large(len(text), lambda: tuple(tokenizer.encode(text, special=False)))


def _job(
    body: ChatRequest, prompt: Prompt, service: Service, grammar: Grammar | None, tools: ToolUse | None
) -> GenerationJob:
    engine = service.engine
    check_tokens(prompt, engine, "messages")
    if not prompt:
        raise invalid("messages", "messages: they have no tokens; the model needs at least one to continue")
    limit = token_limit(body, "messages", len(prompt), engine.context_length, default=None)
    id = f"chatcmpl-{secrets.token_hex(12)}"
    top, reader = _alternatives(body), None if tools is None else tools.reader
    return GenerationJob(
        choices(
            body,
            [prompt],
            [limit],
            id=id,
            logprobs=top,
            grammar=None if grammar is None else grammar.text,
            calls=reader,
        ),
        ChatFormatter(id, int(time.time()), service.name(body.model), engine.tokenizer, top),
        Usage(len(prompt)),
        stream=body.stream,
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
        grammar_param=None if grammar is None else grammar.param,
    )


def _alternatives(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs", "Invalid 'top_logprobs': 'logprobs' must be true when 'top_logprobs' is used.")
    return body.top_logprobs or 0 if body.logprobs else None


class ChatFormatter(ResponseFormatter):
    """``chat.completion``, and ``chat.completion.chunk`` for streams."""

    def response(self, answers: Sequence[TextDelta], usage: Usage) -> Json:
        choices = [self._choice(i, delta, "message", _message(delta)) for i, delta in enumerate(answers)]
        return self.envelope("chat.completion", choices) | {"usage": usage.json()}

    def first_chunks(self, index: int) -> list[Json]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return [self.envelope("chat.completion.chunk", [choice])]

    def chunks(self, index: int, delta: TextDelta) -> list[Json]:
        """Return one chunk, or one for the text and for each piece of a call: clients add them up one by one."""
        messages: list[Json] = [{"content": delta.text}] if delta.text else []
        messages = [*messages, *({"tool_calls": [_piece(call)]} for call in delta.calls)] or [{}]
        parts = [TextDelta() for _ in messages]
        parts[0].tokens, parts[-1].finish = delta.tokens, delta.finish
        return [self._chunk(index, part, message) for part, message in zip(parts, messages, strict=True)]

    def usage_chunk(self, usage: Usage) -> Json:
        return self.envelope("chat.completion.chunk", []) | {"usage": usage.json()}

    def _chunk(self, index: int, delta: TextDelta, message: Json) -> Json:
        return self.envelope("chat.completion.chunk", [self._choice(index, delta, "delta", message)])

    def _choice(self, index: int, delta: TextDelta, field: str, message: Json) -> Json:
        logprobs = None if self.top is None else for_chat(delta.tokens, self.tokenizer, self.top)
        return {"index": index, field: message, "logprobs": logprobs, "finish_reason": delta.finish}


def _message(delta: TextDelta) -> dict[str, Json]:
    message: dict[str, Json] = {"role": "assistant", "content": delta.text, "refusal": None}
    if not delta.calls:
        return message
    return message | {"content": delta.text or None, "tool_calls": [*_whole(delta.calls)]}


def _whole(pieces: Sequence[CallDelta]) -> Iterator[Json]:
    """Yield the calls that pieces make; those of a call come one after the other."""
    for _, group in groupby(pieces, key=lambda piece: piece.index):
        first, *rest = group
        arguments = first.arguments + "".join(piece.arguments for piece in rest)
        yield {"id": first.id, "type": "function", "function": {"name": first.name, "arguments": arguments}}


def _piece(call: CallDelta) -> dict[str, Json]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
