"""The most text that one token can stand for, which allows refusing a text that is too long unread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from launcher.core.types import Json

SHRINKS = 5
"""NFC makes at most so many bytes one: a Korean syllable of 3 bytes was 9, and others up to 5 times as long."""
KEEPING = frozenset({"ByteLevel", "Digits", "Metaspace"})
"""Pre-tokenizers that leave out nothing."""


def longest_token(spec: Mapping[str, Json]) -> int | None:
    """Return the most bytes of UTF-8 that a token of a ``tokenizer.json`` stands for; None where that has no bound.

    There is no bound where a part of the pipeline may leave out text. Such parts are a normalizer that strips and a
    pre-tokenizer that drops spaces. So are a model that merges unknown characters into one token, and an added token
    that takes the spaces around it.
    """
    model, added = spec["model"], spec.get("added_tokens", ())
    kept = all(_keeps(each) for each in _parts(spec.get("pre_tokenizer"), "pretokenizers"))
    factors = [_factor(each) for each in _parts(spec.get("normalizer"), "normalizers")]
    if spec.get("truncation") or not kept or None in factors or not _reads_every_byte(model, spec):
        return None
    if any(token.get("lstrip") or token.get("rstrip") for token in added):
        return None
    lengths = [len(text if _byte_level(spec) else text.encode()) for text in model["vocab"]]
    longest = max(lengths + [len(token["content"].encode()) for token in added])
    for factor in factors:
        longest *= factor or 1
    return longest


def _parts(stage: Json, name: str) -> Iterator[Mapping[str, Json]]:
    """Yield the parts of a stage, which may be absent, one, or a sequence."""
    if stage is None:
        return
    if stage["type"] == "Sequence":
        for each in stage[name]:
            yield from _parts(each, name)
    else:
        yield stage


def _keeps(stage: Mapping[str, Json]) -> bool:
    return stage["type"] in KEEPING or (stage["type"] in ("Split", "Punctuation") and stage["behavior"] != "Removed")


def _factor(stage: Mapping[str, Json]) -> int | None:
    """Return how many bytes a normalizer makes one at most, or None without a bound."""
    if stage["type"] == "Prepend":
        return 1
    if stage["type"] == "NFC":
        return SHRINKS
    if stage["type"] == "Replace":
        replaced, by = stage["pattern"].get("String"), stage["content"]
        return 1 if replaced is not None and by and len(by.encode()) >= len(replaced.encode()) else None
    return None


def _reads_every_byte(model: Mapping[str, Json], spec: Mapping[str, Json]) -> bool:
    """Whether each byte is a token at least: by the alphabet of ByteLevel, or as ``<0x41>``."""
    if model.get("type") != "BPE":
        return False
    vocabulary = model["vocab"]
    if _byte_level(spec):
        return sum(len(text) == 1 for text in vocabulary) >= 256
    return bool(model.get("byte_fallback")) and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))


def _byte_level(spec: Mapping[str, Json]) -> bool:
    """Whether each character of the vocabulary is a byte."""
    return any(stage["type"] == "ByteLevel" for stage in _parts(spec.get("pre_tokenizer"), "pretokenizers"))
