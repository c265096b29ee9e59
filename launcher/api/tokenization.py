"""Routes for clients that work with token ids: the tokenizer and the plain forward pass."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from launcher.api.chat import render
from launcher.api.request_schema import ReferenceRequest, TokenizeRequest, TokensRequest
from launcher.api.sampling import check_range, check_tokens
from launcher.api.service import Service, service_of
from launcher.api.threads import run_in_thread_if_large
from launcher.asgi.errors import ApiError, invalid
from launcher.asgi.responses import json_response
from launcher.core.types import Json

Tokens = TypeVar("Tokens", bound=TokensRequest)


async def tokenize(request: Request) -> Response:
    """Return ``{tokens, count, max_model_len}`` of a prompt or of rendered messages."""
    service = service_of(request)
    body = await service.read(request, TokenizeRequest)
    service.name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("prompt", "give either prompt or messages")
    tokenizer = service.engine.tokenizer
    if body.messages is not None:
        tokens = list(await render(body.messages, body.rendering(), tokenizer))
    else:
        text, special = body.prompt or "", body.add_special_tokens
        tokens = await run_in_thread_if_large(len(text), lambda: tokenizer.encode(text, special=special))
    answer = {"tokens": tokens, "count": len(tokens), "max_model_len": service.engine.context_length}
    if body.return_token_strs:
        answer["token_strs"] = [service.engine.tokenizer.token_name(token) for token in tokens]
    return json_response(answer)


async def detokenize(request: Request) -> Response:
    """Return ``{prompt}``: the text of token ids, without special tokens."""
    service = service_of(request)
    body = await _tokens(request, service, TokensRequest)
    check_range(body.tokens, service.engine.tokenizer.vocab_size, "tokens")
    return json_response({"prompt": service.engine.tokenizer.decode(body.tokens)})


async def tokenizer_info(request: Request) -> Response:
    """Return the tokenizer's description: special tokens, size, chat template."""
    return json_response(service_of(request).engine.tokenizer.info())


async def reference_logprobs(request: Request) -> Response:
    """Return ``{token_logprobs}`` by one plain forward pass; the first is null. 501 without a plain forward pass.

    With ``exact`` also ``exact_token_logprobs``, by the same pass in the next wider floating point type; null where
    that cannot be computed, for the ``exact_reason``.
    """
    service = service_of(request)
    body = await _tokens(request, service, ReferenceRequest)
    tokens = body.tokens
    check_tokens(tokens, service.engine, "tokens")
    if not 1 <= len(tokens) <= service.engine.context_length:
        raise invalid("tokens", f"tokens: expected 1 to {service.engine.context_length} tokens, got {len(tokens)}")
    try:
        logprobs = await asyncio.to_thread(service.engine.reference, tokens)
    except NotImplementedError:
        raise ApiError(501, "this engine has no plain forward pass", code="not_implemented") from None
    exact = await _exact(service, tokens) if body.exact else {}
    return json_response({"token_logprobs": [None, *logprobs], **exact})


async def _exact(service: Service, tokens: list[int]) -> dict[str, Json]:
    """Compute in the wider type, or return the reason why the engine cannot, for instance a lack of memory."""
    try:
        logprobs = await asyncio.to_thread(service.engine.exact_reference, tokens)
    except (NotImplementedError, RuntimeError) as error:
        return {
            "exact_token_logprobs": None,
            "exact_reason": (str(error) or type(error).__name__).splitlines()[0][:200],
        }
    return {"exact_token_logprobs": [None, *logprobs]}


async def _tokens(request: Request, service: Service, schema: type[Tokens]) -> Tokens:
    body = await service.read(request, schema)
    service.name(body.model)
    return body
