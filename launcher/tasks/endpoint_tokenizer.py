"""The tokenizer that an endpoint serves, for prompts that are made of token ids."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from launcher.core.errors import TaskError
from launcher.core.responses import context_length
from launcher.core.tokenizer import TextRefused
from launcher.core.types import Encoder, Endpoint, Json
from launcher.tasks import waiting

TIMEOUT_S = 60.0
PATIENCE_S = 600.0
"""How long to wait for a server that is away; an evaluation that ends before ends this too."""
INTERVAL_S = 1.0
RETRYABLE = frozenset({408, 409, 425, 429})
CACHED_TEXTS = 4096
MODELS = "/v1/models"
LENGTH_REMEDY = "set lm_eval.max_length, or max_length of a perplexity task"
REMEDY = "set tokenizer=<folder of a tokenizer>"


class EndpointTokenizer:
    """Encodes text by ``/tokenize`` of the endpoint's server, as lm-eval's `RemoteTokenizer` does.

    Equal texts in a row, such as the context of several choices, are sent once. Nothing is sent where this process
    serves the model, and so has its tokenizer. Raises `TaskError`.
    """

    def __init__(self, endpoint: Endpoint, *, add_special_tokens: bool = False) -> None:
        self._root, self._key, self._model = endpoint.root, endpoint.api_key, endpoint.model
        self._headers = endpoint.validator_headers
        self._local = endpoint.tokenizer
        self._add_special_tokens = add_special_tokens
        self._has_answered = False
        self._cached = lru_cache(CACHED_TEXTS)(self._encode)

    @cached_property
    def info(self) -> Mapping[str, Json]:
        """What ``/tokenizer_info`` says."""
        return self._call("/tokenizer_info", None) if self._local is None else self._local.info()

    @property
    def eos_token(self) -> str | None:
        return self.info.get("eos_token")

    @cached_property
    def eos_token_id(self) -> int | None:
        return None if self.eos_token is None else self._ids(self.eos_token, special=False)[0]

    @cached_property
    def bos_token_id(self) -> int | None:
        bos = self.info.get("bos_token")
        return None if bos is None else self._ids(bos, special=False)[0]

    @property
    def context_length(self) -> int | None:
        """The context length in tokens that ``/v1/models`` says; None where it says none."""
        return context_length(self._call(MODELS, None), self._model)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens unless they were asked for."""
        return list(self._cached(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids(text, special=self._add_special_tokens))

    def _ids(self, text: str, *, special: bool) -> list[int]:
        if self._local is not None:
            return self._locally(self._local, text, special=special)
        found = self._call("/tokenize", {"prompt": text, "add_special_tokens": special}).get("tokens")
        if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
            raise TaskError(f"{self._root}/tokenize answered without a list of token ids")
        return found

    def _locally(self, tokenizer: Encoder, text: str, *, special: bool) -> list[int]:
        try:
            return tokenizer.encode(text, special=special)
        except TextRefused as error:
            raise TaskError(f"the model's tokenizer does not read a prompt: {error}") from None

    def _call(self, path: str, body: Json) -> Mapping[str, Json]:
        """Return the answer of the server; wait while one that has answered before is away, as the evaluation does."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                found = self._sent(path, body)
                self._has_answered = True
                return found
            except _Away as error:
                if not self._has_answered or time.monotonic() > deadline or waiting.wait(INTERVAL_S):
                    fault = waiting.NotBack if self._has_answered else TaskError
                    what = "says no context length" if path == MODELS else "gives no tokenizer"
                    remedy = "" if self._has_answered else f"; {LENGTH_REMEDY if path == MODELS else REMEDY}"
                    raise fault(f"{self._root}{path} {what}: {error}{remedy}") from None

    def _sent(self, path: str, body: Json) -> Mapping[str, Json]:
        """Send one request on a connection that stays open. Raises `TaskError`, and `_Away` for what may pass."""
        import requests

        try:
            answer = self._session.request(
                "GET" if body is None else "POST",
                self._root + path,
                json=body,
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise _Away(type(error).__name__) from None
        if answer.status_code in RETRYABLE or answer.status_code >= 500:
            raise _Away(f"HTTP {answer.status_code}")
        try:
            found = answer.json() if answer.ok else None
        except ValueError:
            found = None
        if not isinstance(found, Mapping):
            said = f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:200]}"
            raise TaskError(f"{self._root}{path} gives no tokenizer ({said}); {REMEDY}")
        return found

    @cached_property
    def _session(self) -> Any:
        import requests

        session = requests.Session()
        session.headers.update(self._headers)
        if self._key:
            session.headers["Authorization"] = f"Bearer {self._key}"
        return session


class _Away(Exception):
    """A failure that may pass."""
