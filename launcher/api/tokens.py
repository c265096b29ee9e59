"""The tokenizer and the plain forward pass, for clients that work with token ids."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from launcher.api.body import read
from launcher.api.chat import render
from launcher.api.encode import respond
from launcher.api.errors import ApiError, invalid
from launcher.api.large import beside
from launcher.api.sampling import check_tokens
from launcher.api.schema import TokenizeRequest, TokensRequest
from launcher.api.service import Service, service_of


async def tokenize(request: Request) -> Response:
    """Return ``{tokens, count, max_model_len}`` of a prompt or of rendered messages."""
    service = service_of(request)
    body = await read(request, TokenizeRequest)
    service.check_model(body.model)
    tokens = await beside(_size(body), lambda: _encode(body, service))
    answer = {"tokens": tokens, "count": len(tokens), "max_model_len": service.runner.context_length}
    if body.return_token_strs:
        answer["token_strs"] = [service.runner.tokenizer.token_name(token) for token in tokens]
    return respond(answer)


def _encode(body: TokenizeRequest, service: Service) -> list[int]:
    tokenizer = service.runner.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "give either prompt or messages")
    if body.messages is not None:
        return list(render(body.messages, tokenizer, add_generation_prompt=body.add_generation_prompt))
    return tokenizer.encode(body.prompt or "", special=body.add_special_tokens)


def _size(body: TokenizeRequest) -> int:
    return len(body.prompt or "") + sum(len(message.content) for message in body.messages or ())


async def detokenize(request: Request) -> Response:
    """Return ``{prompt}``: the text of token ids, without special tokens."""
    service = service_of(request)
    tokens = await _tokens(request, service)
    return respond({"prompt": service.runner.tokenizer.decode(tokens)})


async def tokenizer_info(request: Request) -> Response:
    """Return what the tokenizer says about itself: special tokens, size, chat template."""
    return respond(service_of(request).runner.tokenizer.info())


async def reference_logprobs(request: Request) -> Response:
    """Return ``{token_logprobs}`` by one plain forward pass; the first is null. 501 without a model to ask."""
    service = service_of(request)
    tokens = await _tokens(request, service)
    if not 1 <= len(tokens) <= service.runner.context_length:
        raise invalid("tokens", f"tokens: accepted are 1 to {service.runner.context_length} tokens, got {len(tokens)}")
    try:
        logprobs = await asyncio.to_thread(service.runner.reference, tokens)
    except NotImplementedError:
        raise ApiError(501, "this engine has no plain forward pass", code="not_implemented") from None
    return respond({"token_logprobs": [None, *logprobs]})


async def _tokens(request: Request, service: Service) -> list[int]:
    body = await read(request, TokensRequest)
    service.check_model(body.model)
    check_tokens(body.tokens, service.runner.tokenizer.vocab_size, "tokens")
    return body.tokens
