"""Folders without a ``tokenizer.json``: a SentencePiece model, or a vocabulary with merges."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from launcher.checkpoints.tokenizers.huggingface import from_folder
from launcher.core.errors import CheckpointError
from tests.checkpoints.tokenizer_inputs import CHATML, CORPUS, TEXTS, backend
from tests.fuzzing import examples

PLAIN: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
KINDS: dict[str, dict[str, Any]] = {
    "llama2": {"model_type": "bpe", "split_digits": True, **PLAIN},
    "no prefix": {"model_type": "bpe", "add_dummy_prefix": False, **PLAIN},
    "unigram": {"model_type": "unigram", **PLAIN},
    "nfkc": {"model_type": "unigram"},
}
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: trained(tmp_path_factory.mktemp("sp"), settings) for kind, settings in KINDS.items()}


def trained(folder: Path, settings: dict[str, Any]) -> Path:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=420, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, **settings,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder / "tokenizer.model"


def written(folder: Path, model: Path, **config: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(ROLES | config))
    return folder


@pytest.mark.parametrize("cls", ["LlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sentencepiece_model_is_read_by_sentencepiece(
    kind: str, cls: str | None, models: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = from_folder(written(tmp_path, models[kind], tokenizer_class=cls))
    right = SentencePieceProcessor(model_file=str(models[kind]))
    for text in TEXTS:
        assert tokenizer.encode(text, special=False) == right.encode(text)
        assert tokenizer.encode(text) == [1, *right.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == (right.decode(right.encode(text)))
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, {2})


@settings(max_examples=examples(30), deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="▁<")))
def test_any_text_comes_back(models: dict[str, Path], text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer = from_folder(written(tmp_path_factory.mktemp("f"), models["llama2"]))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_and_added_tokens_are_found_in_text(models: dict[str, Path], tmp_path: Path) -> None:
    right = SentencePieceProcessor(model_file=str(models["llama2"]))
    size = right.vocab_size()
    listed = {str(size): {"content": "<|im_start|>", "special": True}, str(size + 1): {"content": "<|im_end|>"}}
    config = {"added_tokens_decoder": listed, "chat_template": CHATML, "add_eos_token": True}
    with closing(from_folder(written(tmp_path, models["llama2"], **config))) as tokenizer:
        chat = tokenizer.encode_chat([{"role": "user", "content": "We count 15"}])
        assert (tokenizer.vocab_size, tokenizer.base_vocab_size) == (size + 2, size)
        assert tokenizer.encode("a</s>b") == [1, *right.encode("a"), 2, *right.encode("b"), 2]
    assert chat[0] == size
    assert chat[1:] == [
        *right.encode("user\nWe count 15"), size + 1, *right.encode("\n"), size, *right.encode("assistant\n"),
    ]  # fmt: skip
    assert tokenizer.token_bytes(size) == b""
    assert tokenizer.token_bytes(size + 1) == b"<|im_end|>"


def test_without_legacy_no_space_is_put_behind_a_special_token(models: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = from_folder(written(tmp_path, models["llama2"], legacy=False))
    assert tokenizer.encode("a</s>b", special=False)[-1] == tokenizer.encode("ab", special=False)[-1]
    assert tokenizer.decode(tokenizer.encode("a</s>b")) == "ab"


def test_an_added_token_that_contradicts_the_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    written(tmp_path, models["llama2"], added_tokens_decoder={"5": {"content": "</s>"}})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: the token '</s>' has id 5 there"):
        from_folder(tmp_path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("nothing")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
        from_folder(tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "llama"])
def test_a_vocabulary_and_merges_are_read_as_the_class_says_whatever_the_model_type(kind: str, tmp_path: Path) -> None:
    spec = json.loads(backend("byte_level_gpt2").to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(spec["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in spec["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    named = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|end|>", "unk_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    tokenizer = from_folder(tmp_path)
    for text in TEXTS:
        assert tokenizer.encode(text, special=False) == backend("byte_level_gpt2").encode(text).ids
    assert tokenizer.eos_ids == {1}
