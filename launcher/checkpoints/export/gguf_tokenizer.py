"""A tokenizer in the terms of a GGUF file, found by asking our reader whether it cuts texts in the same way."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from launcher.checkpoints.tokenizers.gguf import (
    CONTROL,
    KIND_OF,
    KINDS,
    NORMAL,
    SPLITS,
    UNKNOWN,
    USER_DEFINED,
    WHOLE_FIRST,
    tokenizer_of,
)
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

BYTE, UNUSED = 6, 5
MORE_ENDS = ("eot_token_id", "eom_token_id")
"""Where a file names the second and the third token that end an answer."""

ADVICE = "give another one with model.tokenizer, or leave it out with convert.tokenizer=false"
LETTERS = ("a", "B", "é", "7", " ", "\n", "\t", ".", "'s", "/", "中", "か", "🙂", "_", "\u0301")
"""One of each kind of character that an expression tells apart."""

TEXTS = (
    "Hello, y'all! How are YOU? I'LL see; we've 3 333 33333 1234567890 items.",
    "  leading   spaces \n\n\n\t tabs \r\n and\u00a0no-break\u3000spaces",
    "def f(x):\n    return x**2  # comment\n\n\n",
    "naïve café ŠKODA straße İstanbul 북한 ไทย हिन्दी العربية 🙂👍🏽 camelCaseAnd_snake http://a.b/c?d=e",
    "x=1/2+3.14e-5;y=[1,2,3]; '' \"\" `` ~~ <|x|> {}()",
)

Fields = dict[str, Json]


def tokenizer_fields(tokenizer: Tokenizer, rows: int, source: str) -> Fields:
    """Return the fields of a tokenizer. Raises `CheckpointError` for one that llama.cpp has no equal of.

    The vocabulary is padded to the ``rows`` of the embedding, which llama.cpp expects.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer | SentencePieceTokenizer):
        raise CheckpointError(f"{source}: GGUF has no {type(tokenizer).__name__}; {ADVICE}")
    common = _common(tokenizer)
    for fields in _candidates(tokenizer, rows, source):
        if _is_same(tokenizer, fields | common):
            return fields | common
    raise CheckpointError(f"{source}: no tokenizer of GGUF cuts texts as this one does; {ADVICE}")


def _is_same(tokenizer: Tokenizer, fields: Fields) -> bool:
    """Tell whether our reader of GGUF makes an equal tokenizer of the fields."""
    try:
        made = tokenizer_of(fields, Path("model.gguf"))
    except CheckpointError:
        return False
    if not tokenizer.eos_ids <= made.eos_ids or made.bos_id != tokenizer.bos_id:
        return False
    if made.encode("a") != tokenizer.encode("a"):
        return False
    return all(
        made.encode(text, special=False) == tokenizer.encode(text, special=False) for text in _texts(_nfc(tokenizer))
    )


def _nfc(tokenizer: Tokenizer) -> bool:
    """Tell whether a tokenizer composes characters first, which llama.cpp leaves out for all models."""
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return False
    return (json.loads(tokenizer.files()["tokenizer.json"]).get("normalizer") or {}).get("type") == "NFC"


@lru_cache(maxsize=2)
def _texts(composed: bool) -> Sequence[str]:
    """Return texts in which every kind of character stands behind every two others."""
    found = [*TEXTS, *("".join(three) for three in itertools.product(LETTERS, repeat=3))]
    return [unicodedata.normalize("NFC", text) for text in found] if composed else found


def _common(tokenizer: Any) -> Fields:
    """Return the special tokens, what is put around a text, and the chat template."""
    config = json.loads(tokenizer.files()["tokenizer_config.json"])
    plain, whole = tokenizer.encode("a", special=False), tokenizer.encode("a")
    ends = sorted(tokenizer.eos_ids, key=lambda token: tokenizer.token_name(token) != config.get("eos_token"))
    found: Fields = {"add_bos_token": bool(whole) and whole != plain and whole[0] == tokenizer.bos_id}
    found["add_eos_token"] = whole != plain and whole[-1] in ends[:1]
    if tokenizer.bos_id is not None:
        found["bos_token_id"] = tokenizer.bos_id
    found |= dict(zip(("eos_token_id", *MORE_ENDS), ends, strict=False))
    made = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
    return made | _templates(config.get("chat_template") or [])


def _templates(stored: str | list[dict[str, str]]) -> Fields:
    """Return the chat template, and the others under their names."""
    named = [{"name": "default", "template": stored}] if isinstance(stored, str) else stored
    key = "tokenizer.chat_template"
    return {key if one["name"] == "default" else f"{key}.{one['name']}": one["template"] for one in named}


def _candidates(tokenizer: Any, rows: int, source: str) -> Iterator[Fields]:
    if isinstance(tokenizer, SentencePieceTokenizer):
        yield from _of_sentencepiece(tokenizer, rows)
        return
    spec = json.loads(tokenizer.files()["tokenizer.json"])
    if spec["model"].get("type") != "BPE":
        kind = spec["model"].get("type")
        raise CheckpointError(
            f"{source}: GGUF has no tokenizer of type {kind} (expected BPE or SentencePiece); {ADVICE}"
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    tokens, types = _vocabulary(spec, rows)
    if spec["model"].get("byte_fallback"):
        yield from _of_pieces(spec, tokens, types)
        return
    for pre in sorted(_names(), key=lambda name: not _is_spelled_out(name, spec)):
        yield _named(model="gpt2", pre=pre, tokens=tokens, token_type=types, merges=merges)


def _names() -> Iterator[str]:
    """Yield a name for each way of cutting a text, with and without words that are taken whole."""
    for names in KINDS.values():
        whole = [name in WHOLE_FIRST for name in names]
        yield from (names[whole.index(flag)] for flag in (True, False) if flag in whole)


def _is_spelled_out(name: str, spec: Any) -> bool:
    """Tell whether a tokenizer has the very expressions of a name; others may cut the same texts in the same way."""
    stages = spec.get("pre_tokenizer") or {}
    found = [stage.get("pattern") for stage in stages.get("pretokenizers", [stages])]
    return all({"Regex": expression} in found for expression in SPLITS[KIND_OF[name]])


def _named(**values: Json) -> Fields:
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def _vocabulary(spec: Any, rows: int) -> tuple[list[str], list[int]]:
    """Return the tokens by id and their types; rows of the embedding without a token get a name of their own."""
    kinds = dict.fromkeys(range(rows), UNUSED)
    texts = {token: f"[PAD{token}]" for token in range(rows)}
    for text, token in spec["model"]["vocab"].items():
        texts[token], kinds[token] = text, NORMAL
    for added in spec["added_tokens"]:
        texts[added["id"]], kinds[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    return [texts[token] for token in sorted(texts)], [kinds[token] for token in sorted(texts)]


def _of_pieces(spec: Any, tokens: list[str], types: list[int]) -> Iterator[Fields]:
    """Yield a vocabulary of SentencePiece's kind: what is merged first has the best score."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(spec["model"]["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    scores = [float(-ranks.get(token, len(ranks))) for token in tokens]
    kinds = [BYTE if _is_byte(token) else kind for token, kind in zip(tokens, types, strict=True)]
    unknown = spec["model"].get("unk_token")
    if unknown in tokens:
        kinds[tokens.index(unknown)] = UNKNOWN
    found = _named(model="llama", tokens=tokens, token_type=kinds, scores=scores)
    found |= _named(unknown_token_id=tokens.index(unknown)) if unknown in tokens else {}
    for prefix in (True, False):
        yield found | _named(add_space_prefix=prefix)


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _of_sentencepiece(tokenizer: SentencePieceTokenizer, rows: int) -> Iterator[Fields]:
    pieces = tokenizer.pieces()
    tokens = [piece.text for piece in pieces] + [f"[PAD{token}]" for token in range(len(pieces), rows)]
    more = rows - len(pieces)
    found = _named(
        model="llama",
        tokens=tokens,
        token_type=[piece.kind for piece in pieces] + [UNUSED] * more,
        scores=[piece.score for piece in pieces] + [0.0] * more,
    )
    unknown = [token for token, piece in enumerate(pieces) if piece.kind == UNKNOWN]
    found |= _named(unknown_token_id=unknown[0]) if unknown else {}
    for prefix in (True, False):
        yield found | _named(add_space_prefix=prefix)
