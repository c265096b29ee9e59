"""Text to token ids and back, with the bytes of every token, so that text offsets are exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from launcher.core import Json

Message = Mapping[str, Json]
"""One chat message in OpenAI's form: ``role`` and ``content``."""


class NoChatTemplate(Exception):
    """The model has no chat template, so chat cannot be rendered as its authors meant it."""


class Tokenizer(ABC):
    """What the API needs of a tokenizer. Token ids run from 0 to ``vocab_size - 1``."""

    vocab_size: int
    eos_ids: frozenset[int]
    bos_id: int | None = None

    @abstractmethod
    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return token ids. ``special`` adds what the model's authors add to a plain prompt (for instance BOS)."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that a token adds to the text; empty for special tokens.

        A token may hold part of a character. The text of a sequence is the concatenation of these, decoded with
        ``errors="replace"``.
        """

    @abstractmethod
    def token_name(self, token: int) -> str:
        """Return the token as ``logprobs`` shows it: its text, the name of a special token, or ``bytes:\\xe2\\x82``."""

    @abstractmethod
    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Return the prompt text for a chat. Raises `NoChatTemplate`, or `ValueError` with the template's complaint."""

    def encode_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Return the prompt's token ids; the template itself writes the special tokens."""
        return self.encode(self.render_chat(messages, add_generation_prompt=add_generation_prompt), special=False)

    def text_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token of a sequence that starts a text.

        This is `token_bytes` of each, except that SentencePiece tokenizers put a space before a text, which is no part
        of it: the first piece comes without. For tokens that continue a text use `token_bytes`.
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

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode("utf-8"))

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def token_name(self, token: int) -> str:
        return byte_name(self.token_bytes(token)) if token < 256 else "<|endoftext|>"

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        lines = [f"{m['role']}: {m['content']}\n" for m in messages]
        return "".join(lines) + ("assistant: " if add_generation_prompt else "")

    def info(self) -> dict[str, Json]:
        return super().info() | {"tokenizer": "bytes", "eos_token": "<|endoftext|>", "bos_token": None}


def byte_name(data: bytes) -> str:
    """Name a token by its text, or by its bytes in OpenAI's form when they are no whole character."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in data)
