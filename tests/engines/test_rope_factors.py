"""The rotary factors of a GGUF file are those of the Hugging Face folder that it was converted from, or are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from launcher.checkpoints import detect
from launcher.checkpoints.base import NotComputed
from launcher.core.errors import CheckpointError
from launcher.engines.auto import Auto
from launcher.engines.huggingface import HuggingFace
from launcher.engines.megatron import Megatron
from launcher.engines.megatron.modules import inverse_frequencies
from launcher.settings.model import Model, Parallelism
from tests.checkpoints import test_gguf
from tests.checkpoints.checkpoint_models import architecture, loaded, logits
from tests.engines import deployments
from tests.engines.answers import answer, request
from tests.engines.huggingface.huggingface_models import CONTEXT, HOST, SIZES, VOCABULARY, byte_tokenizer, save

ORIGINAL, CHANNELS, LAYERS, HEADS, GROUPS = 16, 16, 3, 4, 2
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
TOKENS = [(7 * i * i + 3 * i) % 256 for i in range(CONTEXT - 8)]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
ROOTS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def factors(rope: dict[str, Any], channels: int = CHANNELS) -> list[float]:
    """Return what llama.cpp's converter stores: what each wavelength is stretched by."""
    found = []
    for pair in range(channels // 2):
        turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-2 * pair / channels) / (2 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return found


def converted(folder: Path, file: Path, stored: Sequence[float] | None) -> Path:
    """Write a Llama's folder as llama.cpp's converter does, with these factors."""
    writer = GGUFWriter(str(file), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_freq_base(LLAMA3["rope_theta"])
    writer.add_rope_dimension_count(CHANNELS)
    writer.add_layer_norm_rms_eps(1e-6)
    _add_vocabulary(writer)
    if stored is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(stored, np.float32))
    for name, tensor in AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict().items():
        writer.add_tensor(_name(name), _permuted(name, tensor).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_vocabulary(writer: GGUFWriter) -> None:
    vocabulary = byte_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([*tokens, "ab", *(f"<|{i}|>" for i in range(len(tokens) + 1, VOCABULARY))])
    writer.add_token_types([1 if i < 256 else 3 for i in range(VOCABULARY)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)


def _name(name: str) -> str:
    root, _, weight = name.rpartition(".")
    if root in ROOTS:
        return f"{ROOTS[root]}.{weight}"
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", root).groups()
    return f"blk.{layer}.{NAMES[part]}.{weight}"


def _permuted(name: str, tensor: torch.Tensor) -> torch.Tensor:
    heads = {"q_proj": HEADS, "k_proj": GROUPS}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, CHANNELS // 2, -1).swapaxes(1, 2).reshape(tensor.shape)


@torch.no_grad()
def of_transformers(folder: Path, tokens: Sequence[int]) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(torch.tensor([tokens])).logits


def models(path: Path) -> tuple[Path, Path]:
    """Write a Llama with ``rope_type: llama3``, and the same as GGUF."""
    folder = save("llama", path / "hf", rope_parameters=LLAMA3)
    return folder, converted(folder, path / "model.gguf", factors(LLAMA3))


def test_logits_are_those_of_the_hugging_face_folder(tmp_path: Path) -> None:
    folder, file = models(tmp_path)
    expected = of_transformers(folder, TOKENS)
    found = logits(loaded(file), torch.tensor([TOKENS]))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    without = logits(loaded(converted(folder, tmp_path / "without.gguf", None)), torch.tensor([TOKENS]))
    for positions in (slice(4, ORIGINAL), slice(4 * ORIGINAL, None)):
        assert (without - expected)[:, positions].abs().max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", [Parallelism(), Parallelism(tensor=2)], ids=["one", "tensor2"])
async def test_answers_are_those_of_the_hugging_face_folder(parallelism: Parallelism, tmp_path: Path) -> None:
    folder, file = models(tmp_path)
    with deployments.load(Megatron(), Model(path=str(file)), HOST, parallelism) as runner:
        asked = request("a", TOKENS, max_tokens=4, logprobs=0, prompt_logprobs=0)
        found = await answer(runner, asked)
    tokens = torch.tensor([*TOKENS, *found.ids])
    logprobs = of_transformers(folder, tokens.tolist())[0, :-1].log_softmax(-1)
    expected = logprobs.gather(1, tokens[1:, None])[:, 0].tolist()
    assert found.logprobs[1:] == pytest.approx(expected, abs=1e-4)


@given(
    stored=st.lists(st.floats(0.25, 64.0, width=32), min_size=4, max_size=4),
    scaling=st.sampled_from([None, {"rope_type": "linear", "factor": 2.0}]),
)
def test_each_frequency_is_divided_by_its_factor_and_scaled(stored: list[float], scaling: Any) -> None:
    found = inverse_frequencies(architecture(rope_factors=tuple(stored), rope_scaling=scaling))
    scale = 1.0 if scaling is None else 1 / scaling["factor"]
    expected = [scale * 10000.0 ** (-2 * i / 8) / factor for i, factor in enumerate(stored)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_factors_of_another_number_are_no_model() -> None:
    with pytest.raises(ValueError, match=r"rope_factors: there are 3 \(expected 4, one per frequency\)"):
        inverse_frequencies(architecture(rope_factors=(1.0, 2.0, 3.0)))


@pytest.mark.parametrize(
    ("stored", "complaint"),
    [
        ([1, 1, 2], r"has shape \[3\] \(expected \[4\], one per frequency\)"),
        ([1] * 5, r"has shape \[5\] \(expected \[4\], one per frequency\)"),
        ([[1, 1], [2, 8]], r"has shape \[2, 2\] \(expected \[4\], one per frequency\)"),
        ([1, 1, 2, 0], r"holds 0\.0 \(expected finite positive numbers\)"),
        ([1, -2, 2, 8], r"holds -2\.0 \(expected finite positive numbers\)"),
        ([1, 1, math.nan, 8], r"holds nan \(expected finite positive numbers\)"),
        ([1, 1, 2, math.inf], r"holds inf \(expected finite positive numbers\)"),
    ],
)
def test_other_factors_are_refused_in_one_line(stored: Any, complaint: str, tmp_path: Path) -> None:
    file = test_gguf.written(tmp_path / "model.gguf", extra={"rope_freqs.weight": stored})
    with pytest.raises(CheckpointError, match=rf"model\.gguf: tensor 'rope_freqs\.weight' {complaint}") as caught:
        detect(file)
    assert "\n" not in str(caught.value)


def test_factors_of_a_model_that_llama_cpp_reads_none_for_are_refused(tmp_path: Path) -> None:
    assert detect(test_gguf.written(tmp_path / "one.gguf", "qwen2", extra={"rope_freqs.weight": np.ones(4)}))
    file = test_gguf.written(tmp_path / "two.gguf", "qwen2", extra={"rope_freqs.weight": [1, 1, 2, 8]})
    with pytest.raises(NotComputed, match=r"rope_freqs\.weight' is set \(expected it in a file of llama, not of qwen2"):
        detect(file)


def test_transformers_ignores_factors_and_is_not_chosen(tmp_path: Path) -> None:
    file = test_gguf.written(tmp_path / "model.gguf", extra={"rope_freqs.weight": [1, 1, 2, 8]})
    with pytest.raises(CheckpointError, match=r"does not read rope_freqs\.weight \(expected engine=megatron\)"):
        deployments.plan(HuggingFace(), Model(path=str(file)), HOST)
    found = deployments.plan(Auto(), Model(path=str(file)), HOST)
    assert found["taken"] == "megatron"


def test_a_scaling_without_a_name_is_linear_for_both(tmp_path: Path) -> None:
    file = test_gguf.written(tmp_path / "model.gguf", add_rope_scaling_factor=2.0)
    assert detect(file).architecture.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(CheckpointError, match=r"does not read llama\.rope\.scaling\.type=linear"):
        deployments.plan(HuggingFace(), Model(path=str(file)), HOST)
