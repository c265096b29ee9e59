"""The bodies that the API answers with, as ``/openapi.json`` describes them: they are written by hand, for speed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Finish = Literal["stop", "length"]


class Reply(BaseModel):
    """A JSON object with exactly these keys; those with a default may be missing."""

    model_config = ConfigDict(extra="forbid")


class OpenReply(BaseModel):
    """A JSON object that may have more keys than these."""

    model_config = ConfigDict(extra="allow")


class Usage(Reply):
    """Token counts: every prompt once, and all that was generated for every choice."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(Reply):
    """Four aligned lists. A log-probability is null for a first prompt token, which has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None]
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class Completion(Reply):
    """The answer to a completion, and each chunk of one that streams: then ``finish_reason`` is null until the end."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TokenAlternative(Reply):
    token: str
    logprob: float | None
    bytes: list[int]


class ChatToken(TokenAlternative):
    top_logprobs: list[TokenAlternative]


class ChatLogprobs(Reply):
    content: list[ChatToken]
    refusal: None


class AssistantMessage(Reply):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Reply):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None


class ChatChunkChoice(Reply):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatCompletionChunk(Reply):
    """An event of a chat that streams. The last one has no choices, if the usage was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(Reply):
    """``root`` is the model's own name, ``id`` that or an alias; ``max_model_len`` the context length in tokens."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(Reply):
    object: Literal["list"]
    data: list[ModelCard]


class Health(OpenReply):
    """``engine`` are its counters. With several replicas there is more."""

    status: Literal["live", "replacing"]
    engine: dict[str, Any]


class Ready(Reply):
    status: Literal["ready"]
    model: str


class Engine(OpenReply):
    """What the engine says of itself: parameters, dtype, layout, optimizations as resolved."""


class TokenizerInfo(OpenReply):
    """What the tokenizer says of itself: special tokens, size, chat template."""

    vocab_size: int


class Tokenization(Reply):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class Detokenization(Reply):
    prompt: str


class ReferenceLogprobs(Reply):
    """The first is null: nothing comes before it."""

    token_logprobs: list[float | None]
    exact_token_logprobs: list[float | None] | None = None
    exact_reason: str | None = None


class ErrorDetails(Reply):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """OpenAI's shape of every error, also as an event of a stream that fails on its way."""

    error: ErrorDetails
