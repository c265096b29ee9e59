"""The answers of the API, as ``/openapi.json`` describes them. For speed, routes write them without these models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from launcher.engines.base import EngineState

Finish = Literal["stop", "length"]
ChatFinish = Literal["stop", "length", "tool_calls"]


class Reply(BaseModel):
    """A JSON object with exactly these keys; one with a default may be missing."""

    model_config = ConfigDict(extra="forbid")


class OpenReply(BaseModel):
    """A JSON object that may have further keys."""

    model_config = ConfigDict(extra="allow")


class Usage(Reply):
    """Token counts: each prompt once, and all generated tokens of each choice."""

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
    """The answer to a completion, and each chunk of a stream, where ``finish_reason`` is null until the end."""

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


class CalledFunction(Reply):
    """``arguments`` is a JSON object as a text."""

    name: str
    arguments: str


class ToolCall(Reply):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Reply):
    """Only an answer with calls of tools has ``tool_calls``; its content is null if it has no text."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Reply):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish


class ChatCompletion(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(Reply):
    name: str | None = None
    arguments: str


class ToolCallDelta(Reply):
    """A piece of the call with this ``index``; the first one has its id and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Reply):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None


class ChatCompletionChunk(Reply):
    """An event of a streamed chat. With ``include_usage`` the last one has no choices."""

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


class ReplicaHealth(Reply):
    """One replica; ``state`` is ``live`` or why it is replaced, ``requests`` those that the balancer sent to it."""

    id: str
    pid: int
    node: str
    state: str
    requests: int
    running: int
    queued: int
    generated_tokens: int
    tokens_per_s: float


class LostProcess(Reply):
    """A process that was lost, at ``time`` in seconds since 1970. ``id`` is null for one that is no replica."""

    id: str | None
    pid: int | None
    reason: str
    time: float


class ScalingDecision(Reply):
    """A change to ``replicas`` because of the number of ``requests``, at ``time`` in seconds since 1970."""

    time: float
    requests: int
    replicas: int


class Health(Reply):
    """``engine`` has its counters. Only a server with replicas has the other fields, and ``replacing``."""

    status: Literal["live", "replacing"]
    engine: EngineState
    replicas: list[ReplicaHealth] | None = None
    wanted: int | None = None
    scaled: list[ScalingDecision] | None = None
    lost: list[LostProcess] | None = None


class Ready(Reply):
    status: Literal["ready"]
    model: str


class Engine(OpenReply):
    """The engine's description: parameters, dtype, layout, optimizations as resolved."""


class TokenizerInfo(OpenReply):
    """The tokenizer's description: special tokens, size, chat template."""

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
    """OpenAI's shape of each error, also of the event that ends a failed stream."""

    error: ErrorDetails
