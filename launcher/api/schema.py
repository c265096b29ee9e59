"""The bodies that the API accepts, with OpenAI's names, defaults and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

MAX_CHOICES = 128
MAX_PROMPTS = 2048
MAX_STOPS = 64
MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1

IGNORED = (
    "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
)  # fmt: skip
"""Fields that clients send and that cannot change an answer: accepted, and not looked at."""

UNSUPPORTED: dict[str, Any] = {
    "audio": None, "function_call": None, "functions": None, "guided_json": None, "min_p": 0, "min_tokens": 0,
    "modalities": ["text"], "moderation": None, "parallel_tool_calls": None, "prediction": None,
    "reasoning_effort": None, "repetition_penalty": 1, "response_format": {"type": "text"}, "suffix": None,
    "tool_choice": "none", "tools": None, "use_beam_search": False, "verbosity": None, "web_search_options": None,
}  # fmt: skip
"""Fields that would change the answer and are refused, except with the value here, which asks for nothing."""


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise ValueError("accepted is a string that is not empty, or a list of such strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"{len(stops)} stop strings, accepted are at most {MAX_STOPS}")
    return tuple(stops)


def _bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise ValueError("accepted is an object that maps token ids to numbers from -100 to 100")
    return {_token_id(key): _bias_value(key, bias) for key, bias in value.items()}


def _token_id(key: Any) -> int:
    if not (isinstance(key, str) and key.isascii() and key.isdigit()):
        raise ValueError(f"the key {key!r} is not a token id")
    return int(key)


def _bias_value(key: str, bias: Any) -> float:
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
        raise ValueError(f"the bias of token {key} is {bias!r}, accepted is a number from -100 to 100")
    return float(bias)


Prompt = str | list[int]
PROMPT = "accepted is a string, a list of strings, a list of token ids, or a list of lists of token ids"


def _prompts(value: Any) -> list[Prompt]:
    if isinstance(value, str) or _are_tokens(value):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError(PROMPT)
    if not (all(isinstance(p, str) for p in value) or all(_are_tokens(p) for p in value)):
        raise ValueError(PROMPT)
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"{len(value)} prompts, accepted are at most {MAX_PROMPTS}")
    return value


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


def _content(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("accepted is a string, or a list of parts of type text")
    return "".join(_part(i, part) for i, part in enumerate(value))


def _part(index: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise ValueError(f"part {index} is of type {kind!r}; this model reads text only")
    if set(part) != {"type", "text"} or not isinstance(part["text"], str):
        raise ValueError(f"part {index}: accepted is {{'type': 'text', 'text': <string>}}")
    return str(part["text"])


class Body(BaseModel):
    """A JSON object without implicit conversions or unknown keys. ``null`` means that a field is absent."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class StreamOptions(Body):
    include_usage: bool = False


Limit = Annotated[int, Field(ge=0)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops, json_schema_input_type=str | list[str])]
Bias = Annotated[dict[int, float], PlainValidator(_bias, json_schema_input_type=dict[str, float])]
Prompts = Annotated[
    list[Prompt], PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]])
]
Content = Annotated[str, PlainValidator(_content, json_schema_input_type=str | list[dict[str, str]])]


class Sampled(Body):
    """What completions and chat have in common."""

    model: str
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    stop: Stops = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Bias = Field(default_factory=dict)
    ignore_eos: bool = False

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Sampled):
    """``POST /v1/completions``. ``add_special_tokens`` is what the tokenizer adds to a text prompt, such as BOS."""

    prompt: Prompts
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool = True


class Message(Body):
    """One chat message. Text parts are joined as they are; ``type`` is what lm-eval adds."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    reasoning_content: str | None = None
    type: Literal["text"] | None = None

    def plain(self) -> dict[str, str]:
        """Return the message for a chat template; a developer's message is a system message by its newer name."""
        sent = self.model_dump(exclude_none=True, exclude={"type"})
        return sent | {"role": "system"} if self.role == "developer" else sent


class ChatRequest(Sampled):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


class TokenizeRequest(Body):
    """``POST /tokenize``: a prompt, or messages for the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class TokensRequest(Body):
    """``POST /detokenize`` and ``POST /reference_logprobs``."""

    model: str | None = None
    tokens: list[int]
