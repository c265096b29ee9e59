"""Tokenizers that make their library panic, never return or take all memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoints.tokenizers.gguf import tokenizer_of
from launcher.checkpoints.tokenizers.guard import opening
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer, from_folder
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import TextRefused
from tests.checkpoints.tokenizer_inputs import backend, gguf_vocabulary, spec


def replace(by: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": by}


def sequence(each: dict[str, Any], count: int, name: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", name: [each] * count}


def template(*ids: int, text: bool = True) -> dict[str, Any]:
    around = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    single = [around, {"Sequence": {"id": "A", "type_id": 0}}] if text else [around]
    named = {"<|begin|>": {"id": "<|begin|>", "ids": list(ids), "tokens": ["<|begin|>"] * len(ids)}}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": named if ids else {}}


HOSTILE: dict[str, dict[str, Any]] = {
    "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "charsmap that crashes": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAAA"}},
    "empty text": {"normalizer": replace("x", String="")},
    "empty match": {"normalizer": replace("xx", Regex="x*")},
    "empty match of a rare letter": {"normalizer": sequence(replace("y", Regex="ж*"), 1)},
    "special token that is not there": {"post_processor": template()},
    "id beyond the vocabulary": {"post_processor": template(4_000_000_000)},
    "id beyond by pairs": {"post_processor": {"type": "BertProcessing", "sep": ["a", 99_999], "cls": ["b", 0]}},
    "many tokens around": {"post_processor": template(*[0] * 5000)},
    "no text": {"post_processor": template(0, text=False)},
    "doubles": {"normalizer": sequence(replace("ee", String="e"), 45)},
    "doubles a rare letter": {"normalizer": sequence(replace("жж", String="ж"), 45)},
    "doubles by a pattern": {"normalizer": sequence(replace("жж", Regex="ж"), 45)},
    "doubles bytes": {"pre_tokenizer": sequence({"type": "ByteLevel", "add_prefix_space": False,
                      "trim_offsets": True, "use_regex": False}, 45, "pretokenizers")},
    "doubles in the decoder": {"decoder": sequence(replace("ee", String="e"), 45, "decoders")},
    "unknown id": {"model": {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}},
    "no unknown id": {"model": {"type": "Unigram", "unk_id": None, "vocab": []}},
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tokenizer_is_refused_in_one_line(kind: str, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(spec("byte_level")) | HOSTILE[kind]))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: ") as refused:
        from_folder(tmp_path)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"1" * 5000: {"content": "x"}}},
        {"added_tokens_decoder": {"\N{ARABIC-INDIC DIGIT ONE}": {"content": "x"}}},
        {"added_tokens_decoder": {"400": {"content": "\ud800"}}},
        {"eos_token": "\ud800"},
        {"eos_token": {"content": "a\udfff"}},
        {"chat_template": "\ud800"},
        {"chat_template": [{"name": ["x"], "template": {}}]},
        {"chat_template": [{"name": "default", "template": {}}]},
        {"additional_special_tokens": ["\ud800"]},
    ],
)
def test_what_is_no_text_or_no_id_is_refused_by_the_name_of_its_file(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(spec("byte_level"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: "):
        from_folder(tmp_path)


@pytest.mark.parametrize("key", ["merges", "tokens", "token_type", "scores", "pre", "model", "eos_token_id"])
@pytest.mark.parametrize("value", [[1, 2], ["one"], [["a", "b"]], [" a"], -7, {"a": 1}])
def test_a_gguf_field_of_another_type_is_refused_in_one_line(key: str, value: Any) -> None:
    vocabulary = gguf_vocabulary("llama2" if key == "scores" else "byte_level")
    fields = {f"tokenizer.ggml.{'token_type' if name == 'types' else name}": each for name, each in vocabulary.items()}
    with pytest.raises(CheckpointError, match=r"^m\.gguf: (?!.*PyMerges)"):
        tokenizer_of(fields | {f"tokenizer.ggml.{key}": value}, Path("m.gguf"))


def test_a_panic_at_a_request_is_that_texts_error() -> None:
    made = json.loads(spec("byte_level")) | HOSTILE["empty match"]
    hostile = HuggingFaceTokenizer(type(backend("byte_level")).from_str(json.dumps(made)), "here")
    with pytest.raises(TextRefused, match="the model's tokenizer cannot read this text: index out of bounds"):
        hostile.encode("a")


def test_an_interrupt_is_no_fault_of_a_tokenizer() -> None:
    with pytest.raises(KeyboardInterrupt), opening("here"):
        raise KeyboardInterrupt
