"""Asks for choices of one token without an echo, where the server has proved that it can."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.core.client import Client
from launcher.core.errors import TransportError
from launcher.core.responses import checked
from launcher.core.types import Endpoint, Handler, Request, Response
from launcher.core.values import changed
from launcher.tasks.loglikelihood import NoLogprobs
from launcher.tasks.next_token import NotNextTokens, as_echo, body_of, found_in, next_tokens, token_ids, tokenize_body

NOTE = "the log-probabilities of its choices are those of the next token, asked in one request without an echo"
REFUSED = range(400, 500)
"""The statuses of a server that does not take the request; the echo is sent then."""


def by_next_token(handler: Handler, client: Client, endpoint: Endpoint) -> Handler:
    """Return a handler that asks ``handler`` for next tokens in place of an echo, wherever both mean the same.

    Its answers have the form of an echo whose context is one entry, as ``samples.jsonl`` keeps it, and a note. An echo
    is sent where a choice is not one token, where the server does not say its tokens, and where the answer lacks one.
    """
    tokens = _Tokens(client, endpoint)

    async def handle(request: Request) -> Response:
        if not request.counted:
            return await handler(request)
        try:
            asked = await next_tokens(request, tokens)
        except NotNextTokens:
            return await handler(request)
        answer = await handler(changed(request, body=body_of(request.body.get("model"), asked), counted=()))
        if not answer.ok and answer.status not in REFUSED:
            return answer
        try:
            found = found_in(answer.body, asked) if answer.ok and answer.fault is None else None
        except NoLogprobs:
            found = None
        if found is not None:
            echo = as_echo(request, asked, answer.body, found)
            read = checked(request, changed(answer, body=echo, notes=None))
            if read.fault is None:
                return changed(read, notes=(NOTE, *(read.notes or ()), *(answer.notes or ())))
        return await handler(request)

    return handle


class _Tokens:
    """The tokens of prompts, by ``/tokenize`` of the server."""

    def __init__(self, client: Client, endpoint: Endpoint) -> None:
        self._client, self._endpoint = client, endpoint

    async def __call__(self, text: str) -> Sequence[int]:
        body = tokenize_body(self._endpoint.model, text)
        try:
            answer = await self._client.post(f"{self._endpoint.root}/tokenize", body)
        except TransportError as error:
            raise NotNextTokens(f"/tokenize gives no answer: {error}") from None
        return token_ids(answer)
