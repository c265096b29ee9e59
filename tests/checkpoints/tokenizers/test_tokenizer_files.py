"""The tokenizer of a folder or file encodes as its file says, under any class or model type."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from launcher.checkpoints import load_tokenizer
from launcher.checkpoints.gguf.layout import opened
from launcher.checkpoints.tokenizers.gguf import KIND_OF, TURN_ENDS, tokenizer_of
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer, from_folder
from launcher.checkpoints.tokenizers.templated import TemplatedTokenizer
from launcher.core.errors import CheckpointError
from launcher.settings.model import Bounds
from tests.checkpoints.tokenizer_inputs import (
    CHATML,
    PIPELINES,
    SPECIAL,
    TEXTS,
    backend,
    gguf_file,
    gguf_vocabulary,
    tokenizer_folder,
)
from tests.fuzzing import combinations, examples

CLASSES = (
    "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast",
    "Qwen2Tokenizer", "GemmaTokenizerFast", "TokenizersBackend", "BertTokenizer", "NoSuchTokenizer", None,
)  # fmt: skip
KINDS = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral", "gpt2", "gpt_neox", "no_such_type", None)
ALPHABET = st.characters(exclude_categories=["Cs"], exclude_characters="▁\x00")


def written(folder: Path, pipeline: str, cls: str | None, kind: str | None, **config: Any) -> Path:
    tokenizer_folder(folder, pipeline, config={"tokenizer_class": cls, **config})
    (folder / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    return folder


def agrees(tokenizer: TemplatedTokenizer, file: Path, text: str) -> None:
    """Compare with the library's own reading of the file; its Metaspace decoder loses spaces within a first token."""
    right = Tokenizer.from_file(str(file))
    decoder = json.loads(file.read_text())["decoder"]
    for special in (True, False):
        ids = right.encode(text, add_special_tokens=special).ids
        back = text.removeprefix(" ") if "Metaspace" in str(decoder) else right.decode(ids)
        assert tokenizer.encode(text, special=special) == ids
        assert tokenizer.decode(ids) == back
        assert b"".join(tokenizer.text_pieces(ids)).decode(errors="replace") == back


@pytest.mark.parametrize(("pipeline", "cls"), combinations(PIPELINES, CLASSES))
def test_every_class_encodes_as_the_file(pipeline: str, cls: str | None, tmp_path: Path) -> None:
    folder = written(tmp_path, pipeline, cls, "llama")
    for text in TEXTS:
        agrees(from_folder(folder), folder / "tokenizer.json", text)


@pytest.mark.parametrize(("pipeline", "kind"), combinations(PIPELINES, KINDS))
def test_every_model_type_encodes_as_the_file(pipeline: str, kind: str | None, tmp_path: Path) -> None:
    folder = written(tmp_path, pipeline, "PreTrainedTokenizer", kind)
    for text in TEXTS:
        agrees(from_folder(folder), folder / "tokenizer.json", text)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pipeline=st.sampled_from(PIPELINES),
    cls=st.sampled_from(CLASSES),
    kind=st.sampled_from(KINDS),
    flags=st.fixed_dictionaries(
        {}, optional={key: st.booleans() for key in ("add_bos_token", "add_eos_token", "add_prefix_space", "legacy")}
    ),
    text=st.text(ALPHABET, max_size=40),
)
def test_any_text_is_encoded_as_the_file_says(
    pipeline: str, cls: str | None, kind: str | None, flags: dict[str, bool], text: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, pipeline, cls, kind, **flags)
    agrees(from_folder(folder), folder / "tokenizer.json", text)


@pytest.mark.parametrize("pipeline", [name for name in PIPELINES if name != "metaspace"])
@settings(max_examples=examples(40), deadline=None)
@given(text=st.text(ALPHABET, max_size=40))
def test_text_comes_back_also_with_spaces_in_front(pipeline: str, text: str) -> None:
    tokenizer = HuggingFaceTokenizer(backend(pipeline), "file")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_file_of_another_name_is_the_one_that_is_read(tmp_path: Path) -> None:
    tokenizer_folder(tmp_path, "llama2")
    backend("byte_level_gpt2").save(str(tmp_path / "other.json"))
    agrees(load_tokenizer(tmp_path / "other.json"), tmp_path / "other.json", "In 2024")  # type: ignore[arg-type]


def test_tokens_that_only_the_config_lists_have_the_ids_that_it_gives(tmp_path: Path) -> None:
    size = backend("byte_level").get_vocab_size()
    listed = {str(size): {"content": "<tool>", "special": True}, "0": {"content": "<|begin|>", "special": True}}
    tokenizer = from_folder(tokenizer_folder(tmp_path, config={"added_tokens_decoder": listed}))
    assert tokenizer.encode("a<tool>", special=False)[-1] == size
    assert tokenizer.base_vocab_size == size


@pytest.mark.parametrize("wrong", [{"7": {"content": "<|begin|>"}}, {"9999": {"content": "<new>"}}])
def test_an_id_that_contradicts_tokenizer_json_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    tokenizer_folder(tmp_path, config={"added_tokens_decoder": wrong})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: the token .* has id \d+ there"):
        from_folder(tmp_path)


@pytest.mark.parametrize("wrong", [{"x": {"content": "a"}}, {"1": "a"}, {"1": {"content": 3}}])
def test_a_listing_that_is_no_listing_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    tokenizer_folder(tmp_path, config={"added_tokens_decoder": wrong})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: added_tokens_decoder has"):
        from_folder(tmp_path)


def test_a_token_that_a_role_names_is_found_in_text(tmp_path: Path) -> None:
    made = json.loads(backend("llama2").to_str())
    made["added_tokens"] = [added for added in made["added_tokens"] if added["content"] != "</s>"]
    tokenizer_folder(tmp_path, "llama2", made=Tokenizer.from_str(json.dumps(made)))
    tokenizer = from_folder(tmp_path)
    assert tokenizer.encode("a</s>", special=False)[-1] == 2
    assert (tokenizer.token_bytes(2), tokenizer.token_name(2)) == (b"", "</s>")


def test_roles_may_be_objects_and_stand_in_special_tokens_map(tmp_path: Path) -> None:
    tokenizer_folder(tmp_path, config={"eos_token": None, "bos_token": {"content": "<|begin|>", "lstrip": False}})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    tokenizer = from_folder(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, {3})


def test_an_added_token_of_spaces_is_spaces(tmp_path: Path) -> None:
    made = backend("yi")
    made.add_tokens([AddedToken("▁▁▁", special=False, normalized=False), AddedToken("\n\n", special=False)])
    folder = tokenizer_folder(tmp_path, "yi", made=made)
    for text in ("a   b\n\nc", "▁▁▁x"):
        agrees(from_folder(folder), folder / "tokenizer.json", text)


@pytest.mark.parametrize("stored", ["list", "object", "jinja", "jinja and others"])
def test_named_templates_give_the_one_for_chats_without_tools(stored: str, tmp_path: Path) -> None:
    named = {"tool_use": "{{ 'with tools' }}{{ messages }}", "default": CHATML}
    config: Any = named
    if stored == "list":
        config = [{"name": name, "template": text} for name, text in named.items()]
    elif "jinja" in stored:
        config = "{{ 'not this one' }}" if stored == "jinja" else [{"name": "tool_use", "template": "x"}]
        tokenizer_folder(tmp_path)
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    tokenizer_folder(tmp_path, config={"chat_template": config})
    with closing(from_folder(tmp_path)) as tokenizer:
        chat = tokenizer.render_chat([{"role": "user", "content": "Hi"}])
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"tool_use": "x"}, "named 'tool_use', and none is 'default'"),
        ([{"name": "default"}], "chat_template must be a text"),
        (["x"], "chat_template must be a text"),
        (7, "chat_template must be a text"),
    ],
)
def test_templates_without_a_default_are_refused(stored: Any, message: str, tmp_path: Path) -> None:
    tokenizer_folder(tmp_path, config={"chat_template": stored})
    with pytest.raises(CheckpointError, match=message):
        from_folder(tmp_path)


def gguf_tokenizer(file: Path, vocabulary: dict[str, Any]) -> HuggingFaceTokenizer:
    found = load_tokenizer(gguf_file(file, vocabulary))
    assert isinstance(found, HuggingFaceTokenizer)
    return found


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "falcon3", "llama-v3"])
def test_gguf_adds_bos_for_the_kinds_that_llama_cpp_adds_it_for(pre: str, tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(tmp_path / "m.gguf", gguf_vocabulary("byte_level", pre=pre))
    right = backend("byte_level")
    for text in TEXTS:
        assert tokenizer.encode(text) == right.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("fields", "first", "last"),
    [
        ({"add_bos_token": False}, None, None),
        ({"pre": "qwen2"}, None, None),
        ({"pre": "qwen2", "add_bos_token": True}, 0, None),
        ({"pre": "gpt-2", "add_eos_token": True}, None, 1),
        ({"pre": "tekken"}, 0, None),
        ({"pre": "default"}, None, None),
    ],
)
def test_gguf_says_what_stands_around_a_text(
    fields: dict[str, Any], first: int | None, last: int | None, tmp_path: Path
) -> None:
    tokenizer = gguf_tokenizer(tmp_path / "m.gguf", gguf_vocabulary("byte_level", **fields))
    plain, whole = tokenizer.encode("In 2024", special=False), tokenizer.encode("In 2024")
    assert whole == [*([] if first is None else [first]), *plain, *([] if last is None else [last])]


@pytest.mark.parametrize("key", ["add_bos_token", "add_eos_token"])
def test_gguf_flags_that_are_no_booleans_are_refused(key: str, tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "m.gguf", gguf_vocabulary("byte_level"))
    fields = opened(file, Bounds()).fields
    with pytest.raises(CheckpointError, match=f"{key} is 'false' \\(expected true or false"):
        tokenizer_of({**fields, f"tokenizer.ggml.{key}": "false"}, file)


def test_a_long_name_of_a_kind_is_quoted_in_part(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.model is 'x+\.\.\. \(supported") as refused:
        tokenizer_of({"tokenizer.ggml.model": "x" * 10_000}, tmp_path)
    assert len(str(refused.value)) < 600


def test_gguf_without_the_bos_that_it_adds_is_refused(tmp_path: Path) -> None:
    vocabulary = gguf_vocabulary("byte_level")
    del vocabulary["bos_token_id"]
    with pytest.raises(CheckpointError, match=r"add_bos_token is on .* and bos_token_id is missing"):
        gguf_tokenizer(tmp_path / "m.gguf", vocabulary)


@pytest.mark.parametrize("prefix", [None, True, False])
def test_gguf_of_sentencepiece_puts_bos_and_a_space_in_front(prefix: bool | None, tmp_path: Path) -> None:
    fields = {} if prefix is None else {"add_space_prefix": prefix}
    tokenizer = gguf_tokenizer(tmp_path / "m.gguf", gguf_vocabulary("yi" if prefix is False else "llama2", **fields))
    right = backend("yi" if prefix is False else "llama2")
    for text in [*TEXTS, "a</s>b"]:
        assert tokenizer.encode(text) == right.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == right.decode(right.encode(text).ids)
    assert tokenizer.eos_ids == {2}


@pytest.mark.parametrize("name", sorted(TURN_ENDS))
def test_gguf_tokens_that_end_a_turn_end_an_answer(name: str) -> None:
    vocabulary = gguf_vocabulary("byte_level")
    vocabulary["tokens"] = [{"<|im_end|>": "<|x|>", "<|end|>": "<|y|>"}.get(t, t) for t in vocabulary["tokens"]]
    fields = _fields({**vocabulary, "tokens": [*vocabulary["tokens"], name], "types": [*vocabulary["types"], 3]})
    tokenizer = tokenizer_of(fields, Path("m.gguf"))
    assert tokenizer.eos_ids == {1, len(vocabulary["tokens"])}


def _fields(vocabulary: dict[str, Any]) -> dict[str, Any]:
    names = {"types": "token_type"}
    return {f"tokenizer.ggml.{names.get(key, key)}": value for key, value in vocabulary.items()}


def test_gguf_harmony_ends_a_message_but_no_answer_with_end() -> None:
    vocabulary = gguf_vocabulary("byte_level")
    more = ["<|return|>", "<|call|>"]
    tokens = [*vocabulary["tokens"], *more]
    made = {**vocabulary, "tokens": tokens, "types": [*vocabulary["types"], 3, 3], "eos_token_id": len(tokens) - 2}
    names = {tokens[token] for token in tokenizer_of(_fields(made), Path("m.gguf")).eos_ids}
    assert "<|end|>" in tokens
    assert names == {"<|return|>", "<|call|>", "<|im_end|>"}


@pytest.mark.parametrize("pre", sorted(KIND_OF))
def test_gguf_every_known_kind_of_splits_keeps_the_text(pre: str) -> None:
    tokenizer = tokenizer_of(_fields(gguf_vocabulary("byte_level", pre=pre)), Path("m.gguf"))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, special=False)) == text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pre": "no-such"}, "tokenizer.ggml.pre is 'no-such'"),
        ({"model": "bert"}, "tokenizer.ggml.model is 'bert'"),
        ({"tokens": ["a", "a"], "types": [1, 1]}, "'a' twice"),
        ({"tokens": []}, "tokenizer.ggml.tokens is missing"),
        ({"types": [1]}, "token_type must have an entry"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000"),
        ({"merges": None}, "tokenizer.ggml.merges is missing"),
        ({"merges": ["nothing known"]}, "tokenizer.ggml.merges"),
    ],
)
def test_gguf_what_is_no_vocabulary_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        tokenizer_of(_fields({**gguf_vocabulary("byte_level"), **fields}), Path("m.gguf"))


def test_roles_of_the_inputs_are_in_their_vocabularies() -> None:
    for pipeline, roles in SPECIAL.items():
        assert all(backend(pipeline).token_to_id(name) is not None for name in roles.values())
