from __future__ import annotations

import json
import sys
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzzing import examples

tokenizers = pytest.importorskip("tokenizers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

from launcher.checkpoints.tokenizers.token_bound import SHRINKS, longest_token  # noqa: E402

CORPUS = ["the same words and        spaces again and again 123456 ééé 한국어 한국어"] * 20
BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}


@cache
def byte_level(normalizer: str = "") -> Tokenizer:
    found = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(r" ?\w+|\s+"), "isolated")
    found.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if normalizer:
        found.normalizer = getattr(normalizers, normalizer)()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    found.add_special_tokens(["<|endoftext|>"])
    return found


@cache
def byte_fallback() -> Tokenizer:
    vocabulary = BYTES | {"▁": 256, "a": 257, "▁a": 258, "<unk>": 259}
    found = Tokenizer(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.ByteFallback()
    return found


BOUNDED = {"byte level": byte_level, "with NFC": lambda: byte_level("NFC"), "byte fallback": byte_fallback}


def spec(tokenizer: Tokenizer, **changed: Any) -> dict[str, Any]:
    return json.loads(tokenizer.to_str()) | changed


@pytest.mark.parametrize("name", BOUNDED)
@settings(max_examples=examples(50), deadline=None)
@given(data=st.data())
def test_no_text_has_fewer_tokens_than_the_bound_says(name: str, data: st.DataObject) -> None:
    tokenizer = BOUNDED[name]()  # type: ignore[operator]
    longest = longest_token(spec(tokenizer))
    assert longest is not None
    pieces = st.sampled_from(
        ["the same words", " " * 40, "<|endoftext|>", "\u1100\u1161\u11a8", "e\u0301", "\u212b", "▁", "a"]
    )
    text = data.draw(st.lists(pieces | st.text(max_size=20), max_size=10).map("".join))
    assert len(text.encode()) <= longest * len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_bound_is_of_use() -> None:
    assert longest_token(spec(byte_level())) == 13
    assert longest_token(spec(byte_fallback())) == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "aa"}, "content": ""}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}},
        {"truncation": {"max_length": 5, "direction": "Right", "strategy": "LongestFirst", "stride": 0}},
        {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}},
        {"pre_tokenizer": None},
        {"added_tokens": [{"id": 0, "content": "x", "lstrip": True, "rstrip": False}]},
        {"added_tokens": [{"id": 0, "content": "x", "lstrip": False, "rstrip": True}]},
    ],
)
def test_where_text_may_be_left_out_there_is_no_bound(changed: dict[str, Any]) -> None:
    assert longest_token(spec(byte_level(), **changed)) is None


def test_an_alphabet_that_lacks_a_byte_has_no_bound() -> None:
    model = spec(byte_level())["model"]
    lacking = model | {"vocab": {text: id for text, id in model["vocab"].items() if text != "A"}}
    assert longest_token(spec(byte_level(), model=lacking)) is None


def test_nfc_shrinks_no_more_than_is_said() -> None:
    """Each character that NFC makes, against the longest that each of its parts may have been before.

    Korean syllables, which have no entry of their own, are three letters of three bytes at most.
    """
    composed = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.decomposition(c)[:1] not in ("", "<")]
    assert len(composed) > 1000
    longest: dict[str, int] = {}
    for char in composed:
        parts = unicodedata.normalize("NFD", char)
        if len(parts) == 1:
            longest[parts] = max(longest.get(parts, 0), len(char.encode()))
    for char in composed:
        before = sum(max(len(part.encode()), longest.get(part, 0)) for part in unicodedata.normalize("NFD", char))
        assert before <= SHRINKS * len(unicodedata.normalize("NFC", char).encode()), char
    assert SHRINKS * len("\uac01".encode()) >= 3 * 3
