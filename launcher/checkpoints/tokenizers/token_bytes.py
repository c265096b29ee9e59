"""The bytes of every token of a ``tokenizer.json``, as its decoder produces them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

from launcher.core.errors import CheckpointError
from launcher.core.types import Json

SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""


def token_table(spec: Json, source: str) -> tuple[dict[int, bytes], dict[int, str], int]:
    """Return the bytes of every ordinary token, the name of every special one, and how many first spaces are dropped.

    ``spec`` is a parsed ``tokenizer.json``. Raises `CheckpointError` for a decoder that gives tokens no bytes.
    """
    decoding = _decoding(spec.get("decoder"), source)
    table = {token: decoding.bytes_of(piece) for piece, token in _vocabulary(spec["model"]).items()}
    special = {}
    for added in spec.get("added_tokens", []):
        if added["special"]:
            table.pop(added["id"], None)
            special[added["id"]] = added["content"]
        else:
            table[added["id"]] = decoding.bytes_of_added(added["content"])
    return table, special, decoding.strips


def _vocabulary(model: Json) -> dict[str, int]:
    """Return token to id; a Unigram model stores a list of ``[token, score]``."""
    vocab = model["vocab"]
    return vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}


@dataclass
class _Decoding:
    """What the steps of a decoder do to one token; ``strips`` first spaces of a text are dropped."""

    byte_level: bool = False
    byte_fallback: bool = False
    fused: bool = False
    replaced: list[tuple[str, str]] = field(default_factory=list)
    strips: int = 0
    strips_each: int = 0

    def bytes_of(self, piece: str) -> bytes:
        if self.byte_level:
            return byte_level_bytes(piece)
        for old, new in self.replaced:
            piece = piece.replace(old, new)
        for _ in range(self.strips_each):
            piece = piece.removeprefix(" ")
        return byte_fallback_bytes(piece) if self.byte_fallback else piece.encode()

    def bytes_of_added(self, content: str) -> bytes:
        """An added token is text as it is, but for the steps that a SentencePiece-like decoder has for all."""
        return content.encode() if self.byte_level else self.bytes_of(content)


def _decoding(decoder: Json, source: str) -> _Decoding:
    steps = decoder.get("decoders", [decoder]) if decoder else []
    kinds = [str(step["type"]) for step in steps]
    found = _Decoding()
    for step in steps:
        if not _read(step, found):
            break
    else:
        if found.byte_level and len(kinds) == kinds.count("ByteLevel") + kinds.count("Fuse"):
            return found
        if not found.byte_level and (found.replaced or found.byte_fallback):
            return found
    shown = " + ".join(kinds) or "none"
    raise CheckpointError(f"{source}: decoder {shown} gives no bytes (expected ByteLevel, Metaspace or ByteFallback)")


def _read(step: Json, found: _Decoding) -> bool:
    """Note what a step does; return whether it is one that can be undone token by token."""
    kind = step["type"]
    if kind == "ByteLevel":
        found.byte_level = True
    elif kind == "ByteFallback":
        found.byte_fallback = True
    elif kind == "Fuse":
        found.fused = True
    elif kind == "Metaspace":
        found.replaced.append((step.get("replacement", SPACE_MARK), " "))
        found.strips += step.get("prepend_scheme", "always") != "never"
    elif kind == "Replace" and "String" in step["pattern"]:
        found.replaced.append((step["pattern"]["String"], step["content"]))
    elif kind == "Strip" and step["content"] == " " and not step["stop"]:
        found.strips += step["start"] if found.fused else 0
        found.strips_each += 0 if found.fused else step["start"]
    else:
        return False
    return True


def byte_level_bytes(piece: str) -> bytes:
    """Undo GPT-2's mapping of bytes to printable characters; a piece with a character outside of it is plain text."""
    table = byte_of_character()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()


def byte_fallback_bytes(piece: str) -> bytes:
    """Return the bytes of a SentencePiece piece, of which ``<0xE2>`` is a single byte."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        with suppress(ValueError):
            return bytes([int(piece[3:5], 16)])
    return piece.encode()


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
