"""The text of an echoed prompt is the prompt, with special tokens in it or around it."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from launcher.api.echoed_prompt import echoed
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.checkpoints.tokenizers.sentencepiece import Added, SentencePieceTokenizer
from launcher.core.prompt_logprobs import check_offsets, spans
from launcher.core.tokenizer import ByteTokenizer, Tokenizer
from tests.checkpoints.tokenizer_inputs import CORPUS, SPECIAL, backend
from tests.fuzzing import examples

PIECES = st.sampled_from(
    ["<s>", "</s>", "<|begin|>", "<|im_start|>", "<|im_end|>", "<|glued|>", "<tool>", "[", "<", "|>"]
)
PROMPTS = st.lists(st.text("ab é€\n", min_size=1, max_size=3) | PIECES, min_size=1, max_size=8).map("".join)


def made(pipeline: str) -> Tokenizer:
    """Return a tokenizer with a token that swallows whitespace, as Phi-3's, and one that is added but not special."""
    library = backend(pipeline)
    library.add_special_tokens([AddedToken("<|glued|>", lstrip=True, rstrip=True, normalized=False)])
    library.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return HuggingFaceTokenizer(library, pipeline)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("sp")
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(folder / "m"), vocab_size=320, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, normalization_rule_name="identity", minloglevel=2,
        remove_extra_whitespaces=False,
    )  # fmt: skip
    tokens, file = {"<s>": 1, "</s>": 2, "<|im_end|>": 400, "<tool>": 401}, folder / "m.model"
    named = frozenset(tokens) - {"<tool>"}
    return {
        **{pipeline: made(pipeline) for pipeline in SPECIAL},
        "legacy": SentencePieceTokenizer(file, add_bos=True, add_eos=True, added=Added(tokens, named)),
        "new": SentencePieceTokenizer(file, add_bos=True, added=Added(tokens, named, prefix_each=False)),
    }


def offsets_of(pieces: tuple[bytes, ...]) -> list[int]:
    return list(accumulate((len(piece.decode()) for piece in pieces), initial=0))[: len(pieces)]


@pytest.mark.parametrize("name", [*SPECIAL, "legacy", "new"])
@settings(max_examples=examples(30), deadline=None)
@given(prompt=PROMPTS)
def test_an_echo_is_the_prompt(tokenizers: dict[str, Tokenizer], name: str, prompt: str) -> None:
    tokenizer = tokenizers[name]
    tokens = tokenizer.encode(prompt)
    pieces = echoed(tokens, prompt, tokenizer)
    assert len(pieces) == len(tokens)
    assert b"".join(pieces).decode() == prompt


CHATS = [
    "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n a",
    "<s>ab</s>b",
    "<s> ab",
    "a<|glued|>\n ab",
    "a\n<|glued|>b",
]


@pytest.mark.parametrize("name", [*SPECIAL, "legacy", "new"])
@pytest.mark.parametrize("prompt", CHATS)
def test_a_client_finds_the_same_places(tokenizers: dict[str, Tokenizer], name: str, prompt: str) -> None:
    tokenizer = tokenizers[name]
    tokens = tokenizer.encode(prompt)
    pieces = echoed(tokens, prompt, tokenizer)
    names = [tokenizer.token_name(token) for token in tokens]
    found = spans(names, prompt, len(prompt))
    assert len(found) >= len(tokens) - (name == "legacy")  # an added end of sequence is behind the prompt
    check_offsets(offsets_of(pieces), ["-" * 99, *names[1:]], found)  # never as tokens that are joined


@pytest.mark.parametrize("generated", [[], ["b"], ["<|glued|>"]])
def test_whitespace_that_a_last_token_swallowed_is_its_own(generated: list[str]) -> None:
    tokens, said = ["a", "<|glued|>", *generated], "".join(generated).replace("<|glued|>", "")
    assert spans(tokens, f"a<|glued|>\n {said}", 12) == [(0, 1), (1, 12)]


def test_a_bos_that_was_added_has_no_text_before_one_of_the_prompt(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["yi"]
    tokens = tokenizer.encode("<s><s>a")
    assert echoed(tokens, "<s><s>a", tokenizer) == (b"", b"<s>", b"<s>", b"a")
    assert spans(["<s>", "<s>", "<s>", "a"], "<s><s>a", 7) == [(0, 0), (0, 3), (3, 6), (6, 7)]
    assert spans(["<s>", "<s>"], "<s>", 3) == [(0, 3)]  # the model said the second


def test_token_ids_are_shown_with_their_special_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    tokens = tokenizer.encode("a<|im_end|>b")
    assert b"".join(echoed(tokens, None, tokenizer)) == b"<|begin|>a<|im_end|>b"
    assert b"".join(echoed([97, 256], None, ByteTokenizer())) == b"a<|endoftext|>"


def test_a_prompt_that_the_tokenizer_changes_is_what_the_model_read(tmp_path: Path) -> None:
    library = backend("byte_level")
    library.normalizer = normalizers.NFC()
    tokenizer, prompt = HuggingFaceTokenizer(library, "m"), "<|im_end|>e\N{COMBINING ACUTE ACCENT}"
    tokens = tokenizer.encode(prompt, special=False)
    assert b"".join(echoed(tokens, prompt, tokenizer)).decode() == "<|im_end|>é"
