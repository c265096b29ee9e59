"""Text to token ids and back, with the bytes of every token, so that text offsets are exact."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.core.types import Json

Message = Mapping[str, Json]
"""One chat message in OpenAI's form: ``role`` and ``content``, a text or a list of parts ``{type: text, text}``.

That of a message with ``tool_calls`` may be empty. Their ``arguments`` are objects, not JSON as a text.
"""


class NoChatTemplate(Exception):
    """The model has no chat template, so chat cannot be rendered as its authors meant it."""


class TextRefused(ValueError):
    """A text that the model's tokenizer does not read, for the reason in the message."""


class TemplateRefused(ValueError):
    """A chat template does not render these messages, for the reason in the message; ``bound``: it took too much."""

    def __init__(self, reason: str, bound: bool = False) -> None:
        super().__init__(reason)
        self.bound = bound


class ToolsNotRead(TemplateRefused):
    """A chat template leaves out tools, earlier calls of them, or their results; the message says which."""


@dataclass(frozen=True)
class TemplateLimits:
    """What rendering one chat may take: seconds of CPU time, and MB of text beyond that of the messages."""

    timeout_s: float = 1.0
    max_mb: float = 1.0


@dataclass(frozen=True)
class Rendering:
    """How a chat is rendered, under the names that Hugging Face and vLLM use.

    ``continue_final_message`` leaves the last message open, to be continued. ``variables`` are those of
    ``chat_template_kwargs``, such as ``enable_thinking``. ``tools`` are the functions that the model may call, in
    OpenAI's form.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Json] = field(default_factory=dict)
    tools: Sequence[Json] = ()


PLAIN = Rendering()


class Tokenizer(ABC):
    """What the API needs of a tokenizer. Token ids run from 0 to ``vocab_size - 1``.

    ``longest_token`` is the most bytes of a text that one token stands for, None where that has no bound.
    """

    blocks: bool = False
    """Whether `render_chat` may wait for another process, so that an event loop calls it in a thread."""
    template_limits = TemplateLimits()
    tool_call_parser: str = "auto"
    """The setting ``model.tool_call_parser``."""
    tools_template: str | None = None
    """The text of the template that renders chats with tools; None without any."""
    vocab_size: int
    eos_ids: frozenset[int]
    bos_id: int | None = None
    longest_token: int | None = None

    @property
    def base_vocab_size(self) -> int:
        """One more than the highest token of plain text; tokens that were added to a vocabulary lie above."""
        return self.vocab_size

    @abstractmethod
    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids. ``special`` adds what the model's authors add to a plain prompt (for instance BOS).

        Raises `TextRefused` where the tokenizer's library fails for a text.
        """

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that a token adds to the text; empty for special tokens.

        A token may hold part of a character. The text of a sequence is the concatenation of these, decoded with
        ``errors="replace"``.
        """

    @abstractmethod
    def token_name(self, token: int) -> str:
        """Return the token as ``logprobs`` shows it: its text, the name of a special token, or ``bytes:\\xe2\\x82``."""

    def is_added(self, token: int) -> bool:
        """Return whether a token is found in a text before the tokenizer reads what is around it: special and added."""
        return not self.token_bytes(token)

    @abstractmethod
    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        """Return the prompt text for a chat. Raises `NoChatTemplate`, or `TemplateRefused` with the complaint."""

    def encode_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> list[int]:
        """Return the prompt's token ids; the template itself writes the special tokens."""
        return self.encode(self.render_chat(messages, rendering), special=False)

    def files(self) -> dict[str, bytes]:
        """Return the files of a Hugging Face folder from which an equal tokenizer is loaded, by their names.

        Raises `NotImplementedError` for a tokenizer that has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no files")

    def chat_facts(self) -> dict[str, Json]:
        """Return what is known of chat for the report; ``problem`` is a line that a user should see."""
        return {}

    def close(self) -> None:  # noqa: B027  # most have nothing to free
        """Free what rendering needs; nothing is rendered afterwards."""

    def text_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token of a sequence that starts a text.

        This is `token_bytes` of each, with one exception: SentencePiece tokenizers put a space before a text, and the
        first piece comes without it. For tokens that continue a text use `token_bytes`.
        """
        return [self.token_bytes(token) for token in tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(self.text_pieces(tokens)).decode("utf-8", errors="replace")

    def info(self) -> dict[str, Json]:
        """Return what ``/tokenizer_info`` answers (lm-eval reads ``eos_token``, ``bos_token``, ``chat_template``)."""
        return {"vocab_size": self.vocab_size, "eos_token_ids": sorted(self.eos_ids), "bos_token_id": self.bos_id}


class ByteTokenizer(Tokenizer):
    """One token per UTF-8 byte and one end-of-sequence token (256): needs no files."""

    vocab_size = 257
    eos_ids = frozenset({256})
    longest_token = 1
    tools_template = "<tool_call>"

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode("utf-8"))

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def token_name(self, token: int) -> str:
        return byte_name(self.token_bytes(token)) if token < 256 else "<|endoftext|>"

    def render_chat(self, messages: Sequence[Message], rendering: Rendering = PLAIN) -> str:
        tools = [f"tools: {json.dumps(list(rendering.tools), ensure_ascii=False)}\n"] if rendering.tools else []
        lines = [*tools, *(f"{m['role']}: {text_of(m['content'])}{_calls(m)}\n" for m in messages)]
        if rendering.continue_final_message:
            return "".join(lines).removesuffix("\n")
        return "".join(lines) + ("assistant: " if rendering.add_generation_prompt else "")

    def info(self) -> dict[str, Json]:
        return super().info() | {"tokenizer": "bytes", "eos_token": "<|endoftext|>", "bos_token": None}


def text_of(content: Json) -> str:
    """Return the text of a message's content; parts are joined as they are."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def _calls(message: Message) -> str:
    """Return the calls of a message as Hermes and Qwen models write them."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return "".join(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls)


def byte_name(data: bytes) -> str:
    """Name a token by its text, or by its bytes in OpenAI's form when they are no whole character."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in data)
