"""The request bodies of the API, with OpenAI's names, defaults and limits."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from launcher.api.extra_fields import MESSAGE, PART, SAMPLED, STREAM_OPTIONS, TOKENIZE, Fields
from launcher.asgi.errors import quoted
from launcher.core.tokenizer import Rendering
from launcher.engines.sampling_bounds import MAX_SEED, SAMPLING_BOUNDS, is_bias

MAX_CHOICES = 128
MAX_PROMPTS = 2048
MAX_STOPS = 64
MAX_LOGPROBS = 20
MAX_TOOLS = 128
OPEN_SCHEMA = frozenset({"additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf", "not"})
"""Keywords by which a schema says itself which further properties an object has."""
MAX_DIGITS = 18
"""Of a token id."""
FUNCTION_NAME = r"^[A-Za-z0-9_.:/-]{1,128}$"


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise ValueError("expected a string that is not empty, or a list of such strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"{len(stops)} stop strings, expected at most {MAX_STOPS}")
    return tuple(stops)


def _bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise ValueError("expected an object that maps token ids to numbers from -100 to 100")
    return {_token_id(key): _bias_value(key, bias) for key, bias in value.items()}


def _token_id(key: Any) -> int:
    if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= MAX_DIGITS):
        raise ValueError(f"the key {quoted(key)} is not a token id")
    return int(key)


def _bias_value(key: str, bias: Any) -> float:
    if not is_bias(bias):
        raise ValueError(f"the bias of token {key[:20]} is {quoted(bias)}, expected a number from -100 to 100")
    return float(bias)


Prompt = str | list[int]
PROMPT = "expected a string, a list of strings, a list of token ids, or a list of lists of token ids"


def _prompts(value: Any) -> list[Prompt]:
    if isinstance(value, str) or _are_tokens(value):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError(PROMPT)
    if not (all(isinstance(p, str) for p in value) or all(_are_tokens(p) for p in value)):
        raise ValueError(PROMPT)
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"{len(value)} prompts, expected at most {MAX_PROMPTS}")
    return value


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


def _content(value: Any) -> str | list[dict[str, str]]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("expected a string, or a list of parts of type text")
    return [{"type": "text", "text": _part(i, part)} for i, part in enumerate(value)]


def _part(index: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise ValueError(f"part {index} is of type {quoted(kind)}; this model reads text only")
    extra = {name for name, value in part.items() if not PART.has_no_effect(name, value)}
    if extra - {"type", "text"} or not isinstance(part.get("text"), str):
        raise ValueError(f"part {index}: expected {{'type': 'text', 'text': <string>}}")
    return str(part["text"])


class Body(BaseModel):
    """A JSON object without implicit conversions or unknown keys. ``null`` means that a field is absent.

    ``others`` lists further keys that may be present, with their values.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    others: ClassVar[Fields] = Fields()

    @model_validator(mode="before")
    @classmethod
    def _without_absent_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if not cls._has_no_effect(name, value)}

    @classmethod
    def _has_no_effect(cls, name: str, value: Any) -> bool:
        return value is None or (name not in cls.model_fields and cls.others.has_no_effect(name, value))


class StreamOptions(Body):
    """``include_usage`` adds a last chunk with the usage; ``continuous_usage_stats`` (vLLM) adds it to each chunk."""

    others: ClassVar[Fields] = STREAM_OPTIONS

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchema(Body):
    """The ``json_schema`` of a response format. Its ``schema`` is always held to, as with OpenAI's ``strict``."""

    name: str | None = None
    description: str | None = None
    definition: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What an answer is: any text, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type 'json_schema', which needs it")
        return self


def _form(value: ResponseFormat | None) -> ResponseFormat | None:
    """Return None for any text, which is what an answer is without a format."""
    return None if value is None or value.type == "text" else value


class StructuredOutputs(Body):
    """What an answer must match, with vLLM's names: JSON of a schema, a regular expression, a text, or a grammar."""

    definition: dict[str, Any] | bool | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Annotated[list[str] | None, Field(min_length=1)] = None
    grammar: str | None = None


def _parameters(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is not None and value.get("type", "object") != "object":
        raise ValueError(f"arguments are an object: expected the type 'object', but it is {quoted(value['type'])}")
    return value


class Function(Body):
    """A function that the model may call, with the JSON schema of its arguments; ``strict`` holds calls to it."""

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, AfterValidator(_parameters)] = None
    strict: bool | None = None

    def schema_of_arguments(self) -> dict[str, Any]:
        """Return the schema; a function takes no arguments beside its properties unless the schema says so."""
        given = {"type": "object", "properties": {}} if self.parameters is None else self.parameters
        closed = "properties" in given and not OPEN_SCHEMA & given.keys()
        return {"type": "object", **({"additionalProperties": False} if closed else {}), **given}

    def plain(self) -> dict[str, Any]:
        """Return the function for a chat template."""
        found = self.model_dump(exclude_none=True, exclude={"strict"})
        return {**found, "parameters": self.parameters or {"type": "object", "properties": {}}}


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class NamedTool(Body):
    """The tool that the model must call."""

    type: Literal["function"] = "function"
    function: FunctionName


CHOICES = ("none", "auto", "required")
TOOL_CHOICE = "expected 'none', 'auto', 'required', or {'type': 'function', 'function': {'name': <name>}}"


def _tool_choice(value: Any) -> str | NamedTool:
    if isinstance(value, str) and value in CHOICES:
        return value
    try:
        return NamedTool.model_validate(value)
    except ValueError:
        raise ValueError(TOOL_CHOICE) from None


def _tools(value: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two functions have the name {quoted(twice)}")
    return value


class CalledFunction(Body):
    """``arguments`` is a JSON object as a text."""

    name: str
    arguments: str


class MessageToolCall(Body):
    """A call of an earlier message. Answers of streams that were put together may have its ``index``."""

    others: ClassVar[Fields] = Fields(ignored=frozenset({"index"}))

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


def _within(name: str) -> Any:
    """Return the constraint of a field with the engine's bounds of ``name``."""
    bounds = SAMPLING_BOUNDS[name]
    return Field(ge=bounds.low, le=bounds.high)


Limit = Annotated[int, Field(ge=0)]
Penalty = Annotated[float, _within("presence_penalty")]
Share = Annotated[float, _within("top_p")]
Stops = Annotated[tuple[str, ...], PlainValidator(_stops, json_schema_input_type=str | list[str])]
Bias = Annotated[dict[int, float], PlainValidator(_bias, json_schema_input_type=dict[str, float])]
Prompts = Annotated[
    list[Prompt], PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]])
]
ToolChoice = Annotated[
    str | NamedTool,
    PlainValidator(_tool_choice, json_schema_input_type=Literal["none", "auto", "required"] | NamedTool),
]
Content = Annotated[
    str | list[dict[str, str]], PlainValidator(_content, json_schema_input_type=str | list[dict[str, str]])
]


class Sampled(Body):
    """The fields that completions and chats share."""

    others: ClassVar[Fields] = SAMPLED

    model: str
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    best_of: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    stop: Stops = ()
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Bias = Field(default_factory=dict)
    ignore_eos: bool = False
    response_format: Annotated[ResponseFormat | None, AfterValidator(_form)] = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionRequest(Sampled):
    """``POST /v1/completions``. ``add_special_tokens`` adds the special tokens of a text, such as BOS."""

    prompt: Prompts
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_special_tokens: bool = True


class Message(Body):
    """One chat message. A template that reads no parts gets their texts joined. lm-eval adds ``type``.

    A message with ``tool_calls`` needs no content. That of role ``tool`` is the result of the call ``tool_call_id``.
    """

    others: ClassVar[Fields] = MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = None
    reasoning_content: str | None = None
    type: Literal["text"] | None = None
    tool_calls: list[MessageToolCall] = Field(default_factory=list)
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_content(cls, data: Any) -> Any:
        """A message that only calls tools has no content."""
        if isinstance(data, dict) and data.get("role") == "assistant" and data.get("tool_calls"):
            return {**data, "content": "" if data.get("content") is None else data["content"]}
        return data

    @model_validator(mode="after")
    def _belongs_to_its_role(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls belong to the role 'assistant', not to {self.role!r}")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id belongs to the role 'tool', which needs it")
        return self

    def plain(self) -> dict[str, Any]:
        """Return the message for a chat template, without its calls; ``developer`` is the newer name of ``system``."""
        sent = self.model_dump(exclude_none=True, exclude={"type", "tool_calls"})
        return sent | {"role": "system"} if self.role == "developer" else sent


class Rendered(Body):
    """How messages become a prompt, with vLLM's names; ``chat_template_kwargs`` are variables of the template.

    ``tools`` are what the model may call.
    """

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True), AfterValidator(_tools)] = Field(
        default_factory=list
    )
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    def rendering(self) -> Rendering:
        tools = [{"type": "function", "function": tool.function.plain()} for tool in self.tools]
        return Rendering(self.add_generation_prompt, self.continue_final_message, self.chat_template_kwargs, tools)


class ChatRequest(Rendered, Sampled):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True


class TokenizeRequest(Rendered):
    """``POST /tokenize``: a prompt, or messages for the chat template."""

    others: ClassVar[Fields] = TOKENIZE

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message] | None, Field(fail_fast=True)] = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokensRequest(Body):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]


class ReferenceRequest(TokensRequest):
    """``POST /reference_logprobs``. ``exact`` asks for the same pass in the next wider floating point type, too."""

    exact: bool = False
