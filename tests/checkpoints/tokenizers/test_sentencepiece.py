"""SentencePiece model files, trained here."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import NoChatTemplate
from tests.fuzzing import examples


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog", "hello hello world"] * 20),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    file = tmp_path_factory.mktemp("sp") / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return file


@settings(max_examples=examples(40), deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="▁")))
def test_the_bytes_of_the_tokens_are_the_text(file: Path, text: str) -> None:
    tokenizer = SentencePieceTokenizer(file)
    assert b"".join(tokenizer.text_pieces(tokenizer.encode(text))) == text.encode()


def test_ids_are_those_of_the_library(file: Path) -> None:
    tokenizer, library = SentencePieceTokenizer(file), SentencePieceProcessor(model_file=str(file))
    assert tokenizer.encode("hello world") == library.encode("hello world")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (library.vocab_size(), 1, {2})


def test_bos_is_added_where_asked(file: Path) -> None:
    tokenizer = SentencePieceTokenizer(file, add_bos=True)
    assert tokenizer.encode("hello")[0] == 1
    assert tokenizer.encode("hello", special=False)[0] != 1


def test_control_tokens_have_a_name_but_no_bytes(file: Path) -> None:
    tokenizer = SentencePieceTokenizer(file)
    assert (tokenizer.token_bytes(2), tokenizer.token_name(2)) == (b"", "</s>")
    assert tokenizer.token_bytes(10**6) == b""
    assert tokenizer.info()["eos_token"] == "</s>"


def test_there_is_no_chat(file: Path) -> None:
    with pytest.raises(NoChatTemplate):
        SentencePieceTokenizer(file).render_chat([{"role": "user", "content": "x"}])


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        SentencePieceTokenizer(tmp_path / "tokenizer.model")
