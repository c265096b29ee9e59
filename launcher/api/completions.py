"""``POST /v1/completions``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from launcher.api.detokenizer import TextDelta
from launcher.api.echoed_prompt import echoed
from launcher.api.generation import GenerationJob, ResponseFormatter, Usage, answer
from launcher.api.logprobs import for_completions
from launcher.api.request_schema import CompletionRequest
from launcher.api.sampling import Prompt, check_bias, check_choices, check_length, check_tokens, choices, token_limit
from launcher.api.service import Service, service_of
from launcher.api.structured import Grammar, grammar_of
from launcher.api.threads import run_in_thread_if_large
from launcher.asgi.errors import invalid
from launcher.core.types import Json

DEFAULT_MAX_TOKENS = 16


async def create_completion(request: Request) -> Response:
    """Continue prompts: text or token ids, one or several, with or without the prompt in the answer."""
    service = service_of(request)
    body = await service.read(request, CompletionRequest)
    service.name(body.model)
    grammar = await grammar_of(body, service.engine)
    job = await run_in_thread_if_large(sum(map(len, body.prompt)), lambda: _job(body, service, grammar))
    return await answer(request, service, job)


def _job(body: CompletionRequest, service: Service, grammar: Grammar | None) -> GenerationJob:
    engine = service.engine
    check_bias(body, engine)
    check_choices(body, len(body.prompt), engine)
    prompts = [_tokens(prompt, body, service) for prompt in body.prompt]
    texts = [prompt if isinstance(prompt, str) else None for prompt in body.prompt]
    lowest = 0 if body.echo else 1
    limits = [token_limit(body, "prompt", len(p), engine.context_length, DEFAULT_MAX_TOKENS, lowest) for p in prompts]
    echoes = [echoed(p, text, engine.tokenizer) for p, text in zip(prompts, texts, strict=True)] if body.echo else ()
    id = f"cmpl-{secrets.token_hex(12)}"
    return GenerationJob(
        choices(
            body,
            prompts,
            limits,
            id=id,
            logprobs=body.logprobs,
            echoes=echoes,
            grammar=None if grammar is None else grammar.text,
        ),
        CompletionFormatter(id, int(time.time()), service.name(body.model), engine.tokenizer, body.logprobs),
        Usage(sum(map(len, prompts))),
        stream=body.stream,
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
        grammar_param=None if grammar is None else grammar.param,
    )


def _tokens(prompt: str | list[int], body: CompletionRequest, service: Service) -> Prompt:
    if isinstance(prompt, str):
        check_length(prompt, "prompt", service.engine)
        tokens = service.engine.tokenizer.encode(prompt, special=body.add_special_tokens)
    else:
        tokens = prompt
    check_tokens(tokens, service.engine, "prompt")
    if not tokens:
        raise invalid("prompt", "prompt: it has no tokens; the model needs at least one to continue")
    return tuple(tokens)


class CompletionFormatter(ResponseFormatter):
    """``text_completion``: whole and streamed answers have the same shape."""

    def response(self, answers: Sequence[TextDelta], usage: Usage) -> Json:
        choices = [self._choice(i, delta) for i, delta in enumerate(answers)]
        return self.envelope("text_completion", choices) | {"usage": usage.json()}

    def first_chunks(self, index: int) -> list[Json]:
        return []

    def chunks(self, index: int, delta: TextDelta) -> list[Json]:
        return [self.envelope("text_completion", [self._choice(index, delta)])]

    def usage_chunk(self, usage: Usage) -> Json:
        return self.envelope("text_completion", []) | {"usage": usage.json()}

    def _choice(self, index: int, delta: TextDelta) -> Json:
        logprobs = None if self.top is None else for_completions(delta.tokens, self.tokenizer)
        return {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish}
