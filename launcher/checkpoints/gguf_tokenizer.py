"""The tokenizer inside a GGUF file, rebuilt exactly as llama.cpp reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.checkpoints.hf_tokenizer import HuggingFaceTokenizer, wrap
from launcher.core import Json
from launcher.errors import CheckpointError

CONTROL, USER_DEFINED = 3, 4
"""``tokenizer.ggml.token_type`` of tokens that are never text, and of text that is never split."""

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"llama-bpe": WORDS + r"\p{N}{1,3}" + REST, "qwen2": WORDS + r"\p{N}" + REST}
"""How text is cut before merging, by ``tokenizer.ggml.pre``; ``gpt-2`` and ``smollm`` use the GPT-2 expression."""

PRE = ("gpt-2", "smollm", *SPLITS)


def tokenizer_of(fields: Mapping[str, Json], path: Path) -> HuggingFaceTokenizer:
    """Return the tokenizer of a GGUF file by its metadata ``fields``.

    Raises `CheckpointError` for a kind of tokenizer that cannot be rebuilt; ``model.tokenizer`` then has to name one.
    """
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(fields, path)
    if kind == "llama":
        return _sentencepiece(fields, path)
    raise CheckpointError(f"{path}: tokenizer.ggml.model is {kind!r} (supported: gpt2, llama); set model.tokenizer")


def _byte_level(fields: Mapping[str, Json], path: Path) -> HuggingFaceTokenizer:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    pre = str(fields.get("tokenizer.ggml.pre", "gpt-2"))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = _pre_tokenizer(pre, path)
    backend.decoder = decoders.ByteLevel()
    _add_special(backend, tokens, fields)
    _add_ends(backend, tokens, fields)
    named = {f"{role}_token": _token(tokens, fields, key) for role, key in ROLES.items()}
    template = fields.get("tokenizer.chat_template")
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **named)
    return wrap(fast, path, _eos_ids(fields))


ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}


def _token(tokens: list[str], fields: Mapping[str, Json], key: str) -> str | None:
    token = fields.get(f"tokenizer.ggml.{key}")
    return None if token is None else tokens[token]


def _eos_ids(fields: Mapping[str, Json]) -> list[int]:
    ids = (fields.get(f"tokenizer.ggml.{key}") for key in ("eos_token_id", "eot_token_id"))
    return [token for token in ids if token is not None]


def _pre_tokenizer(pre: str, path: Path) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if pre not in PRE:
        raise CheckpointError(f"{path}: tokenizer.ggml.pre is {pre!r} (known: {', '.join(PRE)}); set model.tokenizer")
    if pre == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if pre == "gpt-2":
        return ByteLevel(add_prefix_space=False)
    split = Split(Regex(SPLITS[pre]), behavior="isolated")
    return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])


def _add_special(backend: Any, tokens: list[str], fields: Mapping[str, Json]) -> None:
    from tokenizers import AddedToken

    kinds = fields["tokenizer.ggml.token_type"]
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        chosen = [token for token, found in zip(tokens, kinds, strict=True) if found == kind]
        backend.add_tokens([AddedToken(token, special=special, normalized=False) for token in chosen])


def _add_ends(backend: Any, tokens: list[str], fields: Mapping[str, Json]) -> None:
    """Add BOS before and EOS after a plain prompt where the file asks for it."""
    from tokenizers.processors import TemplateProcessing

    before = fields["tokenizer.ggml.bos_token_id"] if fields.get("tokenizer.ggml.add_bos_token") else None
    after = fields["tokenizer.ggml.eos_token_id"] if fields.get("tokenizer.ggml.add_eos_token") else None
    ends = [(tokens[token], token) for token in (before, after) if token is not None]
    if ends:
        single = [tokens[before]] if before is not None else []
        single += ["$A", *([tokens[after]] if after is not None else [])]
        backend.post_processor = TemplateProcessing(single=single, special_tokens=ends)


def _sentencepiece(fields: Mapping[str, Json], path: Path) -> HuggingFaceTokenizer:
    """Let transformers rebuild the merges of a SentencePiece vocabulary from its scores."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    return wrap(tokenizer, path, _eos_ids(fields))
