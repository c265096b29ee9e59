"""The check that token ids agree with the checkpoint's tokenizer file, read by the library that wrote it.

A comparison of the server's tokenizer with itself always passes; this check shares no code with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoints.tokenizers.guard import encoding, opening
from launcher.core.tokenizer import TextRefused
from launcher.core.types import Json
from launcher.validate.check import Capability, CheckContext, CheckDefinition, Failure, Family, NotApplicable, said

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    " One space before, two  between, and one after ",
    "In 2024 we count 12345678 apples, 3.14 pears and -7 plums.",
    "naïve café, Größe, Привет, 世界, العربية, 🙂👍🏽",
    "first\nsecond\n\n\tthird\r\n    fourth",
    "def f(x):\n    return {'a': x[0] >= 1}  # it's I'LL\n",
    "aaaaaaaaaaaaaaaa ........ ________",
)
DEPTH = 3
"""How many folders below a checkpoint a tokenizer may lie."""
SPECIAL = 6
"""The number of the file's special tokens that are put into texts."""
MAX_BYTES = 2**28


@dataclass(frozen=True)
class Reading:
    """The file's own tokenizer: text to ids, with surrounding special tokens or (False) without, and back."""

    file: Path
    encode: Callable[[str, bool], list[int]]
    decode: Callable[[list[int]], str]
    texts: tuple[str, ...]
    both: bool
    """Whether the file defines the special tokens around a text."""


async def tokens_of_the_file(context: CheckContext) -> str:
    """Compare ``/tokenize`` and ``/detokenize`` with the checkpoint's ``tokenizer.json`` or SentencePiece model.

    Of a server of another program only ``/tokenize`` of plain texts: special tokens are its own affair.
    """
    if context.vocabulary is None:
        raise NotApplicable("the model has no files, or the engine reads none")
    reading, builtin = _read(context.vocabulary), context.endpoint.is_builtin
    if not builtin:
        await _check_route(context)
    texts = reading.texts if builtin else TEXTS
    for text in texts:
        for special in (True, False) if reading.both and builtin else (False,):
            await _compare(context, reading, text, special)
    return f"{len(texts)} texts as by {reading.file.name}"


async def _check_route(context: CheckContext) -> None:
    """Raise `NotApplicable` for a server of another program that does not say its tokens; vLLM does."""
    body = {"model": context.endpoint.model, "prompt": TEXTS[0], "add_special_tokens": False}
    response = await context.ask.post("/tokenize", body)
    found = response.body.get("tokens") if response.ok and isinstance(response.body, dict) else None
    if not isinstance(found, list) or not found or not all(type(token) is int for token in found):
        raise NotApplicable(f"the server has no /tokenize that says its tokens (HTTP {response.status})")


async def _compare(context: CheckContext, reading: Reading, text: str, special: bool) -> None:
    try:
        with encoding():
            ids = reading.encode(text, special)
    except TextRefused as error:
        raise Failure(f"{reading.file}: {error}") from None
    model = {} if context.endpoint.is_builtin else {"model": context.endpoint.model}
    seen = await _ask(context, "tokenize", {**model, "prompt": text, "add_special_tokens": special}, "tokens")
    if seen != ids:
        at = next((i for i, (one, other) in enumerate(zip(seen, ids, strict=False)) if one != other), len(ids))
        shown = f"{seen[at : at + 3]}, expected {ids[at : at + 3]}"
        raise Failure(f"/tokenize of {text!r} differs from {reading.file} at token {at}: {shown}")
    if not context.endpoint.is_builtin:
        return  # each program has its own idea of special tokens and spaces in a text
    back, expected = await _ask(context, "detokenize", {"tokens": ids}, "prompt"), reading.decode(ids)
    if back not in (expected, text):
        raise Failure(f"/detokenize gives {str(back)[:100]!r} for the tokens of {text!r}, expected {expected!r}")


async def _ask(context: CheckContext, route: str, body: Json, field: str) -> Any:
    response = await context.ask.post(f"/{route}", body)
    if not response.ok:
        raise Failure(f"/{route} answered HTTP {response.status}: {said(response.body)}")
    return response.body[field]


def _read(path: Path) -> Reading:
    files = _files(path)
    if not files:
        raise NotApplicable(f"{path} has no tokenizer.json or SentencePiece model to compare with")
    if files[0].read_bytes() != files[-1].read_bytes():
        raise NotApplicable(f"{path} has several tokenizers: {', '.join(str(file) for file in files)[:200]}")
    return _json(files[0]) if files[0].suffix == ".json" else _sentencepiece(files[0])


def _files(path: Path) -> list[Path]:
    """Return the tokenizer's file, or all files in the folders below; ``tokenizer.json`` takes precedence."""
    if path.is_file():
        return [path] if path.suffix in (".json", ".model") else []
    for name in ("tokenizer.json", "*.model"):
        found = [path / name] if (path / name).is_file() else sorted(_below(path, name, DEPTH))
        if found:
            return [file for file in found if file.stat().st_size < MAX_BYTES]
    return []


def _below(folder: Path, name: str, depth: int) -> Iterator[Path]:
    with suppress(PermissionError):
        yield from (file for file in folder.glob(name) if file.is_file())
        for each in folder.iterdir() if depth else ():
            if each.is_dir() and not each.is_symlink():
                yield from _below(each, name, depth - 1)


def _json(file: Path) -> Reading:
    from tokenizers import Tokenizer

    with opening(file):
        read = Tokenizer.from_file(str(file))
        read.no_truncation()
        read.no_padding()
    special = [added["content"] for added in json.loads(file.read_text(encoding="utf-8")).get("added_tokens", ())]
    chosen = dict.fromkeys([*special[: SPECIAL // 2], *special[-SPECIAL // 2 :]])
    written = tuple(f"before{token}{token} after" for token in chosen)
    return Reading(
        file,
        lambda text, special: list(read.encode(text, add_special_tokens=special).ids),
        lambda ids: str(read.decode(ids)),
        TEXTS + written,
        both=True,
    )


def _sentencepiece(file: Path) -> Reading:
    from sentencepiece import SentencePieceProcessor

    try:
        read = SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError):
        raise NotApplicable(f"{file} is no SentencePiece model to compare with") from None
    return Reading(
        file,
        lambda text, special: list(read.encode(text)),
        lambda ids: str(read.decode(ids)),
        TEXTS,
        both=False,
    )


CHECKS = (
    CheckDefinition(
        "tokenizer_file",
        "tokens of the file",
        Capability.serving,
        tokens_of_the_file,
        Family.tokens,
        expected="`/tokenize` and `/detokenize` agree with the checkpoint's tokenizer file, read by separate code",
        effect="the model reads other tokens than it was trained on: every score is too low",
        remedy="model.tokenizer",
    ),
)
