"""A converted GGUF file is the same model to our reader and to transformers, with the same tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFReader, dequantize, get_tensor_name_map, quantize
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

from launcher.checkpoints import detect
from launcher.checkpoints.export.gguf_tokenizer import tokenizer_fields
from launcher.checkpoints.tokenizers.gguf import KINDS, SPLITS, tokenizer_of
from launcher.checkpoints.tokenizers.huggingface import HuggingFaceTokenizer
from launcher.checkpoints.tokenizers.sentencepiece import SentencePieceTokenizer
from launcher.checkpoints.tokenizers.templated import Names
from launcher.core.errors import CheckpointError
from launcher.pipeline.converting import convert
from launcher.settings.convert import Convert, Layout, Quantize
from launcher.settings.model import Dtype, Model
from tests.checkpoints.checkpoint_models import TOKENS, loaded, logits
from tests.checkpoints.export.test_convert import FACTORS, MEGATRON, TINY, bridge, converted, sentencepiece_file
from tests.checkpoints.test_gguf import written as written_gguf
from tests.checkpoints.test_huggingface import saved
from tests.checkpoints.tokenizer_inputs import CORPUS, TEXTS


def into_gguf(source: Path, folder: Path, **settings: Any) -> Path:
    asked = Convert(path=str(folder), format=Layout.gguf, tokenizer=False, **settings)
    assert convert(Model(path=str(source)), asked) == 0
    return folder / "model.gguf"


def of_transformers(file: Path) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


UNKNOWN = {"qwen2_moe", "qwen3", "qwen3_moe", "mixtral", "experts_apart", "gpt_neox"}
"""What transformers does not read: it leaves out a key_length, and takes 128; it knows no experts of ``llama``."""


@pytest.mark.parametrize("name", ["llama", "llama_untied", "qwen2", *sorted(UNKNOWN)])
def test_a_megatron_checkpoint_is_the_same_model_afterwards(name: str, tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **MEGATRON[name])
    file = into_gguf(source, tmp_path / "made")
    expected = logits(loaded(source))
    assert torch.equal(logits(loaded(file)), expected)
    if name not in UNKNOWN:
        torch.testing.assert_close(of_transformers(file), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt_neox", MODEL_ARCH.GPTNEOX),
        ("gpt_neox_serial", MODEL_ARCH.GPTNEOX),
        ("mixtral", MODEL_ARCH.LLAMA),
        ("qwen2_moe", MODEL_ARCH.QWEN2MOE),
        ("qwen3_moe", MODEL_ARCH.QWEN3MOE),
    ],
)
def test_tensors_are_those_of_llama_cpp_s_converter(name: str, kind: MODEL_ARCH, tmp_path: Path) -> None:
    """By the converter's table of names, with what it does to the rows of each."""
    expected = saved(name, tmp_path / "source")
    file = into_gguf(tmp_path / "source", tmp_path / "made")
    names, wanted = get_tensor_name_map(kind, 2), dict[str, Any]()
    for key, tensor in load_file(tmp_path / "source" / "model.safetensors").items():
        module, _, end = key.rpartition(".")
        expert = re.search(r"\.experts\.(\d+)\.", module)
        found = f"{names.get_name(re.sub(r'experts.[0-9]+', 'experts', module))}.{end}"
        value = as_converted(tensor, found, kind)
        if expert:
            wanted.setdefault(found, {})[int(expert[1])] = value
        else:
            wanted[found] = value
    stored = {tensor.name: tensor.data for tensor in GGUFReader(str(file)).tensors}
    assert stored.keys() == wanted.keys()
    for found, value in wanted.items():
        whole = torch.stack([value[at] for at in range(len(value))]) if isinstance(value, dict) else value
        assert torch.equal(torch.from_numpy(stored[found].copy()), whole), found
    torch.testing.assert_close(logits(loaded(file)), expected, atol=1e-5, rtol=0)


def as_converted(value: torch.Tensor, name: str, kind: MODEL_ARCH) -> torch.Tensor:
    if "ffn_gate_inp_shexp" in name:  # llama.cpp reads a vector
        return value[0]
    if "attn_qkv" in name:  # four heads, each with its query, key and value
        heads = value.chunk(4)
        return torch.cat([torch.cat([head.chunk(3)[part] for head in heads]) for part in range(3)])
    if kind is MODEL_ARCH.LLAMA and ("attn_q." in name or "attn_k." in name):
        order = [head * 8 + half * 4 + pair for head in range(len(value) // 8) for pair in range(4) for half in (0, 1)]
        return value[order]
    return value


def test_experts_are_those_of_transformers(tmp_path: Path) -> None:
    width = 768  # transformers reads no other
    source = bridge(tmp_path / "source", **MEGATRON["qwen3_moe"] | {"expert_ffn_hidden_size": width})
    file = into_gguf(source, tmp_path / "made")
    torch.testing.assert_close(of_transformers(file), logits(loaded(source)), atol=1e-5, rtol=0)


def test_experts_in_eight_bits_are_chosen_in_full_precision(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **MEGATRON["mixtral"])
    file = into_gguf(source, tmp_path / "made", quantize=Quantize.q8_0)
    found = {tensor.name: tensor for tensor in GGUFReader(str(file)).tensors}
    assert found["blk.1.ffn_gate_inp.weight"].tensor_type.name == "F32"
    up = found["blk.1.ffn_up_exps.weight"]
    assert (up.tensor_type.name, list(up.shape)) == ("Q8_0", [32, 48, 4])
    own = detect(file).parameter("decoder.layers.1.mlp.experts.local_experts.3.linear_fc1", "weight")[48:]
    assert torch.equal(own, torch.from_numpy(dequantize(up.data, GGMLQuantizationType.Q8_0)[3].copy()))


@pytest.mark.parametrize("changes", [{"rotary_interleaved": True}, {"zero_centered_gamma": True, "dtype": "bf16"}])
def test_what_is_stored_in_another_way_is_changed(changes: dict[str, Any], tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **changes)
    expected = logits(loaded(source))
    torch.testing.assert_close(logits(loaded(into_gguf(source, tmp_path / "made"))), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [Dtype.bf16, Dtype.fp16])
def test_the_type_is_a_choice(dtype: Dtype, tmp_path: Path) -> None:
    source = bridge(tmp_path / "source")
    file = into_gguf(source, tmp_path / "made", dtype=dtype)
    assert detect(file).architecture.dtype == dtype.value
    half = torch.bfloat16 if dtype is Dtype.bf16 else torch.float16
    expected = {n: p.to(half).float() if p.dim() > 1 else p for n, p in loaded(source).named_parameters()}
    assert all(torch.equal(p, expected[name]) for name, p in loaded(file).named_parameters())


def test_eight_bits_are_those_of_llama_cpp(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", ffn_hidden_size=48)
    file = into_gguf(source, tmp_path / "made", quantize=Quantize.q8_0)
    found = {tensor.name: tensor for tensor in GGUFReader(str(file)).tensors}
    up, down = found["blk.0.ffn_up.weight"], found["blk.0.ffn_down.weight"]
    assert (up.tensor_type.name, down.tensor_type.name) == ("Q8_0", "F32")  # 48 numbers are no whole blocks
    fc1 = loaded(source).get_parameter("decoder.layers.0.mlp.linear_fc1.weight").detach()[48:]
    kind = GGMLQuantizationType.Q8_0
    assert torch.equal(
        torch.from_numpy(dequantize(up.data, kind)), torch.from_numpy(dequantize(quantize(fc1.numpy(), kind), kind))
    )
    difference = (logits(loaded(file)) - logits(loaded(source))).abs().max()
    assert 0 < difference < 0.2


def test_eight_bits_need_gguf(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source")
    with pytest.raises(Exception, match=r"convert\.quantize=q8_0: only convert\.format=gguf has it"):
        convert(Model(path=str(source)), Convert(path=str(tmp_path / "made"), quantize=Quantize.q8_0, tokenizer=False))


def test_the_scaling_of_llama_3_becomes_its_factors(tmp_path: Path) -> None:
    saved("llama3", source := tmp_path / "source")
    file = into_gguf(source, tmp_path / "made")
    assert max(detect(file).architecture.rope_factors or [0]) > 1
    torch.testing.assert_close(logits(loaded(file)), logits(loaded(source)), atol=1e-5, rtol=0)
    assert set(FACTORS) <= set(detect(source).architecture.rope_scaling or {})


def test_factors_of_another_model_stay(tmp_path: Path) -> None:
    source = written_gguf(tmp_path / "source.gguf", extra={"rope_freqs.weight": [1.0, 2.0, 2.5, 3.0]})
    file = into_gguf(source, tmp_path / "made")
    assert detect(file).architecture.rope_factors == (1.0, 2.0, 2.5, 3.0)
    assert torch.equal(logits(loaded(file)), logits(loaded(source)))


NOT_OF_LLAMA_CPP: dict[str, dict[str, Any]] = {
    "tied_neox": MEGATRON["gpt_neox"] | {"tied": True},
    "grouped_neox": MEGATRON["gpt_neox"] | {"num_query_groups": 2},
    "raw_experts": MEGATRON["qwen3_moe"] | {"normalize_expert_weights": False},
    "shared_experts_normalized": MEGATRON["qwen2_moe"] | {"normalize_expert_weights": True},
    "shared_experts_without_a_gate": MEGATRON["qwen2_moe"] | {"shared_expert_gate": False},
    "shared_experts_without_biases": MEGATRON["qwen2_moe"] | {"qkv_bias": False},
}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("mistral", r"llama\.cpp reads no sliding_window \(4\)"),
        ("llama_biased", "cannot have bias=True"),
        ("tied_neox", r"tensor 'output\.weight' is missing \(a gptneox model needs it"),
        ("grouped_neox", r"head_count_kv is 2 \(expected 4, that of queries\)"),
        ("raw_experts", "cannot have normalize_expert_weights=False"),
        ("shared_experts_normalized", "qwen2moe cannot have normalize_expert_weights=True"),
        ("shared_experts_without_a_gate", "qwen2moe cannot have shared_expert_gate=False"),
        ("shared_experts_without_biases", "llama.cpp's qwen2moe has biases of queries"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(name: str, complaint: str, tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **(MEGATRON | NOT_OF_LLAMA_CPP)[name])
    with pytest.raises(CheckpointError, match=complaint) as refused:
        converted(source, tmp_path / "made", layout=Layout.gguf)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def test_a_window_that_no_text_reaches_is_left_out(tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", sliding_window=32)
    file = into_gguf(source, tmp_path / "made")
    assert detect(file).architecture.sliding_window is None
    assert torch.equal(logits(loaded(file)), logits(loaded(source)))


def test_the_shipped_model_has_its_tokenizer_and_template(tmp_path: Path) -> None:
    assert convert(Model(path=str(TINY)), Convert(path=str(tmp_path / "made"), format=Layout.gguf)) == 0
    source, made = detect(TINY).tokenizer(), detect(tmp_path / "made" / "model.gguf").tokenizer()
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "made"), gguf_file="model.gguf")
    for text in ("7+5=", "the capital of france is ", "naïve 🙂\n\n"):
        assert made.encode(text) == source.encode(text) == theirs.encode(text)
    assert made.eos_ids == source.eos_ids
    assert made.info()["chat_template"] == source.info()["chat_template"]
    assert torch.equal(logits(loaded(tmp_path / "made" / "model.gguf")), logits(loaded(TINY)))


def byte_level(kind: str) -> HuggingFaceTokenizer:
    """Train a small vocabulary that cuts texts by the expressions of a kind."""
    backend = Tokenizer(models.BPE())
    cuts = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in SPLITS[kind]]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [*CORPUS, "  \n\n 33333 1234 'll 'LL ABCabc x/y\n\n ...// 中中かか éé 7777 _a" * 3]
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return HuggingFaceTokenizer(backend, "test", Names({"eos_token": "<|end|>"}))


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_way_of_cutting_texts_is_found(kind: str) -> None:
    tokenizer = byte_level(kind)
    fields = tokenizer_fields(tokenizer, 704, "model")
    made = tokenizer_of(fields, Path("model.gguf"))
    assert len(fields["tokenizer.ggml.tokens"]) == 704
    for text in TEXTS:
        assert made.encode(text) == tokenizer.encode(text)


def test_a_way_of_cutting_texts_without_a_name_is_refused() -> None:
    tokenizer = byte_level("gpt2")
    backend = tokenizer._backend
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(
        CheckpointError, match=r"no tokenizer of GGUF cuts texts as this one does; .*convert\.tokenizer=false"
    ):
        tokenizer_fields(HuggingFaceTokenizer(backend, "test"), 704, "model")


def test_nothing_is_written_for_a_tokenizer_without_an_equal(tmp_path: Path) -> None:
    backend = byte_level("gpt2")._backend
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.save(str(tmp_path / "tokenizer.json"))
    model = Model(path=str(bridge(tmp_path / "source", vocab_size=704)), tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="no tokenizer of GGUF cuts texts"):
        convert(model, Convert(path=str(tmp_path / "made"), format=Layout.gguf))
    assert not (tmp_path / "made").exists()


def test_composed_characters_are_compared_composed() -> None:
    """Qwen composes characters first, which llama.cpp leaves out for all models."""
    tokenizer = byte_level("qwen2")
    tokenizer._backend.normalizer = normalizers.NFC()
    fields: Mapping[str, Any] = tokenizer_fields(tokenizer, 704, "model")
    assert fields["tokenizer.ggml.pre"] == "qwen2"


def test_sentencepiece_keeps_its_scores(tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_file(tmp_path / "sp"), add_bos=True)
    made = tokenizer_of(tokenizer_fields(tokenizer, 400, "model"), Path("model.gguf"))
    for text in ("the quick brown fox", "hello  world 🙂", "lazy\n dog"):
        assert made.encode(text) == tokenizer.encode(text)
        assert made.decode(made.encode(text)) == text
