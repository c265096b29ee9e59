"""Megatron-LM's layout: arguments in ``common.pt``, as its checkpointing writes them."""

from __future__ import annotations

import argparse
import enum
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from launcher.checkpoints import detect
from launcher.checkpoints.torch_dist.writer import save
from launcher.core.errors import CheckpointError
from launcher.settings.model import Parallelism
from tests.checkpoints.checkpoint_models import architecture, built, loaded, logits, parallel_logits

LLAMA = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "group_query_attention": True,
    "num_query_groups": 2,
    "kv_channels": 8,
    "max_position_embeddings": 32,
    "seq_length": 16,
    "normalization": "RMSNorm",
    "norm_epsilon": 1e-5,
    "swiglu": True,
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "position_embedding_type": "rope",
    "rotary_base": 10000,
    "rotary_percent": 1.0,
    "num_experts": None,
    "moe_layer_freq": 1,
    "bias_gelu_fusion": False,
    "tokenizer_type": "NullTokenizer",
}
GPT = LLAMA | {
    "group_query_attention": False,
    "num_query_groups": 1,
    "normalization": "LayerNorm",
    "swiglu": False,
    "add_bias_linear": True,
    "add_qkv_bias": True,
    "position_embedding_type": "learned_absolute",
    "bias_gelu_fusion": True,
}
GPT_MODEL = {
    "num_query_groups": 4,
    "normalization": "LayerNorm",
    "gated": False,
    "bias": True,
    "qkv_bias": True,
    "position": "learned_absolute",
    "activation": "gelu_tanh",
}


class AttnBackend(enum.Enum):
    """Megatron-LM's arguments hold enumerations of its own."""

    auto = 5


def written(run: Path, arguments: dict[str, Any], **model: Any) -> Any:
    """Write a run with one iteration and return its model."""
    folder = run / "iter_0000010"
    made = built(architecture(**model))
    save(made, folder, torch.float32)
    args = argparse.Namespace(**arguments, attention_backend=AttnBackend.auto, params_dtype=torch.float32)
    torch.save({"args": args, "checkpoint_version": 3.0, "iteration": 10}, folder / "common.pt")
    (run / "latest_checkpointed_iteration.txt").write_text("10")
    return made


@pytest.mark.parametrize(("arguments", "model"), [(LLAMA, {}), (GPT, GPT_MODEL)], ids=["llama", "gpt"])
def test_logits_are_those_of_the_saved_model(arguments: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    made = written(tmp_path, arguments, **model)
    checkpoint = detect(tmp_path)
    assert checkpoint.layout == "megatron_lm"
    assert checkpoint.architecture == architecture(**model)
    assert torch.equal(logits(loaded(tmp_path)), logits(made))


@pytest.mark.slow
def test_logits_are_the_same_over_ranks(tmp_path: Path) -> None:
    expected = logits(written(tmp_path / "run", GPT, **GPT_MODEL))
    found = parallel_logits(tmp_path / "run", Parallelism(tensor=2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_gpt2_files_are_found_next_to_the_weights(tmp_path: Path) -> None:
    files = {"vocab_file": "/elsewhere/vocab.json", "merge_file": "/elsewhere/merges.txt"}
    written(tmp_path, LLAMA | files | {"tokenizer_type": "GPT2BPETokenizer"})
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["hello world"] * 4, vocab_size=280, special_tokens=["<|endoftext|>"])
    bpe.save_model(str(tmp_path / "iter_0000010"))
    tokenizer = detect(tmp_path).tokenizer()
    assert tokenizer.decode(tokenizer.encode("hello wörld")) == "hello wörld"
    assert tokenizer.eos_ids == {0}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "tokenizer_type is 'NullTokenizer'"),
        ({"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": "org/model"}, "its tokenizer 'org/model'"),
        ({"tokenizer_type": "GPT2BPETokenizer"}, "names no tokenizer file"),
    ],
)
def test_a_tokenizer_that_is_not_there_says_what_to_do(
    arguments: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    written(tmp_path, LLAMA | arguments)
    with pytest.raises(CheckpointError, match=rf"{complaint}.*set model\.tokenizer"):
        detect(tmp_path).tokenizer()


@pytest.mark.parametrize(("untied", "tied", "what"), [(True, True, "missing"), (False, False, "stored")])
def test_an_output_layer_is_as_the_arguments_say(untied: bool, tied: bool, what: str, tmp_path: Path) -> None:
    """One that was lost was taken for the embedding, without a word."""
    written(tmp_path, LLAMA | {"untie_embeddings_and_output_weights": untied}, tied=tied)
    complaint = rf"untie_embeddings_and_output_weights is {untied}; tensor 'output_layer\.weight' is {what}"
    with pytest.raises(CheckpointError, match=complaint):
        detect(tmp_path)


def test_weights_without_arguments_are_refused(tmp_path: Path) -> None:
    written(tmp_path, LLAMA)
    torch.save({}, tmp_path / "iter_0000010" / "common.pt")
    with pytest.raises(CheckpointError, match=r"common\.pt: no 'args' in it"):
        detect(tmp_path)


def test_an_unsupported_switch_is_refused(tmp_path: Path) -> None:
    written(tmp_path, LLAMA | {"swiglu": False, "quick_geglu": True})
    with pytest.raises(CheckpointError, match="activation_func is '--quick-geglu'"):
        detect(tmp_path)


def test_a_switch_that_is_no_boolean_is_refused(tmp_path: Path) -> None:
    written(tmp_path, LLAMA | {"group_query_attention": "false"})
    with pytest.raises(CheckpointError, match=r"common\.pt: group_query_attention is 'false' \(expected true or false"):
        detect(tmp_path)


def test_an_old_run_of_files_per_rank_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000010" / "mp_rank_00"
    folder.mkdir(parents=True)
    (folder / "model_optim_rng.pt").write_bytes(b"x")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10")
    with pytest.raises(CheckpointError, match=r"metadata\.json: missing .*torch_dist"):
        detect(tmp_path)
    (folder.parent / "metadata.json").write_text(json.dumps({"sharded_backend": "fsdp_dtensor"}))
    with pytest.raises(CheckpointError, match="'fsdp_dtensor'"):
        detect(tmp_path)
