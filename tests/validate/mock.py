"""A right server: a fast deterministic model with a real tokenizer behind our own API, which faults may wrap."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from launcher.api.app import create_app
from launcher.asgi.server import bind, server_log, serving
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Check, Endpoint
from launcher.engines.base import (
    AsyncEngine,
    EngineState,
    GenerationRequest,
    Sampling,
    TokenConstraint,
    TokenLogprob,
    TokenOutput,
)
from launcher.engines.runtime.grammar import Grammars
from launcher.settings.validate import Validate
from launcher.validate import certificate
from launcher.validate.check import Capability
from tests.validate.faults import Fault

CONTEXT = 400
SHARPNESS = 2.5
"""The spread of the logits: the likeliest token has about a third of the probability."""
HIDDEN = ("/tokenize", "/detokenize", "/engine", "/reference_logprobs", "/ready", "/tokenizer_info")
"""Routes that a server of another program need not have."""


class MockEngine(AsyncEngine):
    """Gives each sequence of tokens pseudo-random logits, so that every token before matters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.model = "mock"
        self.tokenizer = tokenizer
        self.context_length = CONTEXT
        self.grammars = True
        self._grammars = Grammars(tokenizer, tokenizer.vocab_size)
        plain = (_is_ascii(tokenizer.token_bytes(t)) or t in tokenizer.eos_ids for t in range(tokenizer.vocab_size))
        self._unlikely = np.array([not each for each in plain])

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenOutput]:
        sampling = request.sampling
        prompt = None if sampling.prompt_logprobs is None else tuple(self.scored(request.prompt, sampling))
        follow = None if sampling.grammar is None else self._grammars.constraint(sampling.grammar)
        tokens = tuple(self._generated(list(request.prompt), sampling, follow))
        if not tokens:
            yield TokenOutput((), prompt, "length")
        for at, token in enumerate(tokens, start=1):
            ended = token.token in self.tokenizer.eos_ids and not sampling.ignore_eos
            finish: Any = "stop" if ended else "length" if at == sampling.max_tokens else None
            yield TokenOutput((token,), prompt if at == 1 else None, finish)

    def scored(self, tokens: Sequence[int], sampling: Sampling) -> Iterator[TokenLogprob]:
        yield TokenLogprob(tokens[0])
        for at in range(1, len(tokens)):
            yield self._entry(tuple(tokens[:at]), tokens[at], sampling.prompt_logprobs or 0)

    def reference(self, tokens: Sequence[int]) -> list[float]:
        return [float(self._logprobs(tuple(tokens[:at]))[tokens[at]]) for at in range(1, len(tokens))]

    def state(self) -> EngineState:
        return EngineState()

    def describe(self) -> dict[str, Any]:
        return {"dtype": "fp64", "parameters": 0}

    def _generated(
        self, before: list[int], sampling: Sampling, follow: TokenConstraint | None
    ) -> Iterator[TokenLogprob]:
        used, dice = Counter[int](), np.random.default_rng(sampling.seed)
        for _ in range(sampling.max_tokens):
            allowed = None if follow is None else follow.allowed().numpy()
            token = self._chosen(self._logprobs(tuple(before)), sampling, used, dice, allowed)
            if follow is not None:
                follow.accept(token)
            yield self._entry(tuple(before), token, sampling.logprobs or 0)
            before.append(token)
            used[token] += 1
            if token in self.tokenizer.eos_ids and not sampling.ignore_eos:
                return

    def _chosen(
        self, logprobs: Any, sampling: Sampling, used: Counter[int], dice: np.random.Generator, allowed: Any
    ) -> int:
        logits = logprobs.copy()
        if allowed is not None:
            logits[~allowed] = -np.inf
        for token, times in used.items():
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * times
        for token, bias in sampling.logit_bias.items():
            logits[token] += bias
        if sampling.temperature == 0:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / sampling.temperature)
        if sampling.top_p < 1:
            order = np.argsort(-weights)
            before = np.cumsum(weights[order]) - weights[order]
            weights[order[before >= sampling.top_p * weights.sum()]] = 0
        return int(dice.choice(len(weights), p=weights / weights.sum()))

    def _entry(self, before: tuple[int, ...], token: int, top: int) -> TokenLogprob:
        logprobs = self._logprobs(before)
        best = np.argsort(-logprobs)[:top]
        return TokenLogprob(token, float(logprobs[token]), tuple((int(t), float(logprobs[t])) for t in best))

    def _logprobs(self, before: tuple[int, ...]) -> Any:
        logits = _logits(before, len(self._unlikely)).copy()
        logits[self._unlikely] -= 12
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum())


@lru_cache(maxsize=20_000)
def _logits(before: tuple[int, ...], size: int) -> Any:
    return np.random.default_rng(abs(hash(before))).normal(0, SHARPNESS, size)


def _is_ascii(data: bytes) -> bool:
    return bool(data) and data.isascii() and data.decode().isprintable()


@dataclass
class Wrapped:
    """The app with a fault, or without one. ``hidden`` are the routes that it lacks."""

    app: Any
    fault: Fault | None = None
    hidden: tuple[str, ...] = HIDDEN
    state: dict[str, Any] = field(default_factory=dict)

    def plant(self, fault: Fault | None) -> None:
        self.fault, self.state = fault, {}
        self.hidden = () if fault is not None and fault.builtin else HIDDEN

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = json.loads(await _read(receive) or b"{}")
        status, kind, data = await self._answered(scope, scope["path"], asked)
        headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _answered(self, scope: Any, path: str, asked: dict[str, Any]) -> tuple[int, bytes, bytes]:
        if path in self.hidden:
            return 404, b"application/json", b'{"error": {"message": "Not Found"}}'
        if self.fault is None:
            return await self._forward(scope, asked)
        if self.fault.kind == "call" and not asked.get("stream"):
            status, found = await self.fault.act(self.state, path, asked, lambda body: self._json(scope, body))
            return status, b"application/json", json.dumps(found).encode()
        sent = json.loads(json.dumps(asked))
        if self.fault.kind == "request":
            self.fault.act(path, sent)
        status, kind, data = await self._forward(scope, sent)
        if status != 200:
            return status, kind, data
        return status, kind, self._changed(path, asked, kind, data)

    def _changed(self, path: str, asked: dict[str, Any], kind: bytes, data: bytes) -> bytes:
        fault, is_stream = self.fault, kind.startswith(b"text/event-stream")
        if fault is None or fault.kind != ("events" if is_stream else "answer"):
            return data
        if is_stream:
            events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
            fault.act(path, asked, events)
            return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        found = json.loads(data)
        fault.act(path, asked, found)
        return json.dumps(found).encode()

    @staticmethod
    async def _never() -> Any:
        """Wait for a client that does not leave."""
        return await asyncio.get_running_loop().create_future()

    async def _json(self, scope: Any, asked: dict[str, Any]) -> tuple[int, Any]:
        status, _, data = await self._forward(scope, asked)
        return status, json.loads(data)

    async def _forward(self, scope: Any, asked: dict[str, Any]) -> tuple[int, bytes, bytes]:
        body = json.dumps(asked).encode() if asked else b""
        kept = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        inner = scope | {"headers": [*kept, (b"content-length", str(len(body)).encode())]}
        start, parts = {}, []

        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return pending.pop() if pending else await self._never()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self.app(inner, receive, send)
        return start["status"], dict(start["headers"]).get(b"content-type", b""), b"".join(parts)


async def _read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


@contextmanager
def serve(folder: Path, tokenizer: Tokenizer) -> Iterator[tuple[Wrapped, Endpoint]]:
    """Serve the mock, into which faults can then be planted."""
    wrapped = Wrapped(create_app(MockEngine(tokenizer)))
    with bind("127.0.0.1", 0) as bound, server_log(folder / "log") as log, serving(wrapped, bound, log, 2.0):
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        yield wrapped, Endpoint(url, "mock", "external", "mock", is_builtin=False)


class Mock:
    """The mock's server, and its certificate with a fault or without one."""

    def __init__(self, wrapped: Wrapped, endpoint: Endpoint, folder: Path) -> None:
        self.wrapped, self.endpoint, self.folder = wrapped, endpoint, folder

    async def certify(
        self, fault: Fault | None, only: frozenset[str] | None = None, **settings: Any
    ) -> dict[str, Check]:
        """Return the checks by id; with ``only``, no other is made."""
        self.wrapped.plant(fault)
        builtin = fault is not None and fault.builtin
        key = "the-key" if fault is not None and "key_needed" in fault.checks else None
        endpoint = replace(self.endpoint, is_builtin=builtin, api_key=key)
        skipped = [check.id for check in certificate.CHECKS if only is not None and check.id not in only]
        chosen = Validate(skip=skipped, **{"timeout_s": 20, **settings})
        checks = await certificate.validate(endpoint, chosen, frozenset(Capability), self.folder if builtin else None)
        return {check.id: check for check in checks}
