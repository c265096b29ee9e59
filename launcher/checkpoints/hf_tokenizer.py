"""A Hugging Face fast tokenizer with the exact bytes of every token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.core import Json
from launcher.errors import CheckpointError
from launcher.tokenizer import Message, NoChatTemplate, Tokenizer, byte_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""

UNLIMITED = int(1e30)
"""The length above which transformers would warn; the API checks lengths itself."""


class HuggingFaceTokenizer(Tokenizer):
    """Any fast tokenizer whose decoder is byte-level (GPT-2, Llama 3, Qwen) or SentencePiece-like (Llama 2, Gemma).

    ``eos_ids`` are end-of-sequence ids beyond the tokenizer's own, as a model's ``generation_config.json`` lists them.
    Raises `CheckpointError` naming ``source`` for a tokenizer whose tokens have no bytes of their own (WordPiece).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, source: str, eos_ids: Iterable[int] = ()) -> None:
        self._hf: Any = tokenizer
        self._hf.model_max_length = UNLIMITED
        self._backend: Any = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._bytes, self._special, self._strips = _token_table(json.loads(self._backend.to_str()), source)
        self.vocab_size = max([*self._bytes, *self._special]) + 1
        self.bos_id = tokenizer.bos_token_id
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.eos_ids = frozenset([*own, *eos_ids])

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=special).ids)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def token_name(self, token: int) -> str:
        return self._special.get(token) or byte_name(self.token_bytes(token))

    def text_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        pieces = [self.token_bytes(token) for token in tokens]
        first = next((i for i, piece in enumerate(pieces) if piece), None)
        if self._strips and first is not None:
            pieces[first] = pieces[first].removeprefix(b" ")
        return pieces

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        from jinja2 import TemplateError

        if not self._hf.chat_template:
            raise NoChatTemplate("the tokenizer has no chat template")
        try:
            text = self._hf.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, TypeError) as error:
            raise ValueError(f"the chat template refused the messages: {error}") from error
        return str(text)

    def info(self) -> dict[str, Json]:
        return super().info() | {
            "tokenizer": type(self._hf).__name__,
            "eos_token": self._hf.eos_token,
            "bos_token": self._hf.bos_token,
            "pad_token": self._hf.pad_token,
            "chat_template": self._hf.chat_template,
        }


def from_folder(folder: Path) -> HuggingFaceTokenizer:
    """Load the tokenizer stored in ``folder``, from disk only, never running code that comes with it.

    Raises `CheckpointError` if there is none, or if it cannot be read.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(f"{folder}: no tokenizer (expected tokenizer.json, tokenizer.model or vocab.json)")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust parser raises bare Exception
        raise CheckpointError(f"{folder}: the tokenizer cannot be read: {_first_line(error)}") from error
    return wrap(tokenizer, folder, generation_eos(folder))


def wrap(tokenizer: Any, source: Path, eos_ids: Iterable[int] = ()) -> HuggingFaceTokenizer:
    """Wrap a loaded tokenizer; `CheckpointError` if it is not a fast one."""
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{source}: {type(tokenizer).__name__} is not a fast tokenizer (expected tokenizer.json)")
    return HuggingFaceTokenizer(tokenizer, str(source), eos_ids)


def generation_eos(folder: Path) -> list[int]:
    """Return the end-of-sequence ids of ``generation_config.json`` (else of ``config.json``), which may be a list."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = read_json(folder / name).get("eos_token_id")
            if ids is not None:
                return _token_ids(ids, folder / name)
    return []


def _token_ids(value: Json, file: Path) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) for token in ids):
        raise CheckpointError(f"{file}: eos_token_id is {value!r} (expected a token id or a list of them)")
    return ids


def read_json(file: Path) -> Mapping[str, Json]:
    """Return the object in a JSON file; `CheckpointError` if it is no JSON, empty if it is no object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _token_table(spec: Json, source: str) -> tuple[dict[int, bytes], dict[int, str], bool]:
    """Return the bytes of every ordinary token, the name of every special one, and whether a first space is dropped.

    ``spec`` is a parsed ``tokenizer.json``.
    """
    to_bytes, strips = _decoding(spec.get("decoder"), source)
    table = {token: to_bytes(piece) for piece, token in _vocabulary(spec["model"]).items()}
    special = {}
    for added in spec.get("added_tokens", []):
        if added["special"]:
            table.pop(added["id"], None)
            special[added["id"]] = added["content"]
        else:
            table[added["id"]] = added["content"].encode()
    return table, special, strips


def _vocabulary(model: Json) -> dict[str, int]:
    """Return token to id; a Unigram model stores a list of ``[token, score]``."""
    vocab = model["vocab"]
    return vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}


def _decoding(decoder: Json, source: str) -> tuple[Callable[[str], bytes], bool]:
    """Return the function from a token to its bytes, and whether decoding drops one leading space."""
    steps = decoder.get("decoders", [decoder]) if decoder else []
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds:
        return byte_level_bytes, False
    piece_bytes = byte_fallback_bytes if "ByteFallback" in kinds else metaspace_bytes
    if "Metaspace" in kinds:
        scheme = next(step for step in steps if step["type"] == "Metaspace").get("prepend_scheme", "always")
        return piece_bytes, scheme != "never"
    if "ByteFallback" in kinds:
        return piece_bytes, any(step["type"] == "Strip" and step["start"] for step in steps)
    found = " + ".join(kinds) or "none"
    raise CheckpointError(f"{source}: decoder {found} gives no bytes (expected ByteLevel, Metaspace or ByteFallback)")


def byte_level_bytes(piece: str) -> bytes:
    """Undo GPT-2's mapping of bytes to printable characters; a piece with a character outside of it is plain text."""
    table = byte_of_character()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()


def metaspace_bytes(piece: str) -> bytes:
    """Return the bytes of a SentencePiece piece, in which U+2581 is a space."""
    return piece.replace(SPACE_MARK, " ").encode()


def byte_fallback_bytes(piece: str) -> bytes:
    """Return the bytes of a SentencePiece piece, of which ``<0xE2>`` is a single byte."""
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return bytes([int(piece[3:5], 16)]) if is_byte else metaspace_bytes(piece)


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
