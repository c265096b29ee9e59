"""What the Hugging Face engine reads, and refuses, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFWriter
from safetensors.torch import save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from launcher.core.errors import CheckpointError, UserError
from launcher.distributed.allocation import Allocation
from launcher.engines.huggingface import HuggingFace, source
from launcher.settings.model import Dtype, Model
from tests.engines import deployments

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
HOST = Allocation(nodes=("localhost",), rank=0, world_size=1, cpus=1, gpus=0)


def folder(path: Path, **changes: Any) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file({"a": torch.zeros(3, 4, dtype=torch.bfloat16), "b": torch.zeros(5)}, path / "model.safetensors")
    return path


def gguf(path: Path, *tensors: str, **fields: str) -> Path:
    file = path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(2)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    for key, value in fields.items():
        writer.add_string(key.replace("__", "."), value)
    for name in tensors:
        writer.add_tensor(name, np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("nemotron_h", "a recurrent state instead of keys"),
        ("lfm2", "inputs of convolutions instead of keys"),
        ("glm_moe_dsa", "an index beside keys"),
    ],
)
def test_a_model_with_another_state_is_refused_before_it_is_loaded(tmp_path: Path, kind: str, kept: str) -> None:
    """A plan said of it, before, that it can be served."""
    with pytest.raises(CheckpointError) as refused:
        source.read(folder(tmp_path, model_type=kind))
    assert str(refused.value).startswith(f"{tmp_path / 'config.json'}: model_type is '{kind}', which keeps {kept}")
    assert str(refused.value).endswith("backend=vllm or backend=sglang may serve it as it is")


@pytest.mark.slow
def test_recurrent_models_are_those_of_the_installed_transformers() -> None:
    """What fails here is to be added to RECURRENT."""
    found = set()
    for kind, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        name = names if isinstance(names, str) else names[0]
        if getattr(getattr(transformers, name, None), "_is_stateful", False):
            found.add(kind)
    assert found == source.RECURRENT & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_a_folder_is_described_by_its_config_and_its_headers(tmp_path: Path) -> None:
    found = source.read(folder(tmp_path))
    assert (found.kind, found.context_length, found.parameters, found.dtype) == ("llama", 64, 17, Dtype.bf16)
    assert found.cached_values == 2 * 2 * 1 * 4


def test_other_spellings_are_understood(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32})
    )
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    found = source.read(tmp_path)
    assert (found.context_length, found.cached_values) == (32, 2 * 2 * 8)


def test_a_gguf_file_is_described_by_its_fields(tmp_path: Path) -> None:
    found = source.read(gguf(tmp_path, "token_embd.weight"))
    assert (found.kind, found.context_length, found.parameters, found.cached_values) == ("llama", 64, 32, 16)


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    path = folder(tmp_path)
    before = source.read(path).fingerprint()
    assert source.read(path).fingerprint() == before
    save_file({"a": torch.ones(3, 4, dtype=torch.bfloat16), "b": torch.zeros(5)}, path / "model.safetensors")
    assert HuggingFace().fingerprint(Model(path=str(path))) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "model_type is missing"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "expected a ...ForCausalLM or ...LMHeadModel"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is true"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is set"),
    ],
)
def test_a_config_of_something_else_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        source.read(folder(tmp_path, **changes))
    assert "config.json" in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (folder(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, a pickle, which is not loaded"):
        source.read(tmp_path)


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a model that engine=huggingface reads.*engine=megatron"):
        source.read(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        source.read(tmp_path / "missing")


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        (["output.weight"], {}, r"'token_embd\.weight' is missing"),
        (["token_embd.weight", "rope_freqs.weight"], {}, "does not read rope_freqs"),
        (["token_embd.weight"], {"general__name": "mistral"}, "makes transformers add a window"),
        (["token_embd.weight"], {"llama__pooling": "mean"}, "llama.pooling is 'mean', which is not computed here"),
        (["token_embd.weight"], {"llama__rope__scaling__type": "yarn"}, r"rope\.scaling\.type=yarn"),
    ],
)
def test_a_gguf_file_that_would_be_read_wrongly_is_refused(
    tensors: list[str], fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        source.read(gguf(tmp_path, *tensors, **fields))


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"model\.gguf: (a damaged or incomplete GGUF file|does not start with)"):
        source.read(file)


ROPES = [
    {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 16},
    {"rope_parameters": {"rope_type": "dynamic", "original_max_position_embeddings": 16}},
    {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "original_max_position_embeddings": 16}}},
]


@pytest.mark.parametrize("rope", ROPES)
def test_keys_that_change_with_the_length_bound_the_context(rope: dict[str, Any], tmp_path: Path) -> None:
    model = Model(path=str(folder(tmp_path, **rope)))
    plan = deployments.plan(HuggingFace(), model, HOST)
    assert plan["context_length"] == 16
    assert "no cache can follow" in plan["context_reason"]
    model.context_length = 17
    with pytest.raises(UserError, match=r"context_length=17: the checkpoint allows 1 to 16.*no cache can follow"):
        deployments.plan(HuggingFace(), model, HOST)


def test_a_context_that_is_not_known_must_be_given(tmp_path: Path) -> None:
    model = Model(path=str(folder(tmp_path, max_position_embeddings=None)))
    with pytest.raises(UserError, match=r"model\.context_length: must be set"):
        deployments.plan(HuggingFace(), model, HOST)
    model.context_length = 40
    assert deployments.plan(HuggingFace(), model, HOST)["context_length"] == 40


def test_no_path_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.path: empty; engine=huggingface needs"):
        deployments.plan(HuggingFace(), Model(), HOST)
    with pytest.raises(CheckpointError, match=r"model\.path=package:no_such_package/x"):
        deployments.plan(HuggingFace(), Model(path="package:no_such_package/x"), HOST)


def test_a_flash_attention_of_the_config_is_not_passed_on(tmp_path: Path) -> None:
    """Where the package is missing, transformers fetches a kernel in its place."""
    from launcher.engines.huggingface import loading

    made = source.read(folder(tmp_path, attn_implementation="flash_attention_2"))
    with loading._seen(made) as seen:
        assert json.loads((seen / "config.json").read_text()) == CONFIG
