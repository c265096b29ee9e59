"""Quantised Hugging Face folders: stored numbers times scales, or one line that names a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from launcher.checkpoints import detect
from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import source
from launcher.pipeline.converting import convert
from launcher.settings.convert import Convert
from launcher.settings.model import Dtype, Model
from tests.checkpoints.checkpoint_models import TOKENS, loaded, logits
from tests.checkpoints.test_huggingface import saved

BLOCK = [16, 32]
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": BLOCK}
INT8 = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": {}}}
FLOAT8 = {"quant_method": "compressed-tensors", "format": "float-quantized", "sparsity_config": {"format": "dense"}}


def scales(weight: Tensor, kind: str) -> Tensor:
    if kind == "block":
        return torch.rand(-(-weight.shape[0] // BLOCK[0]), -(-weight.shape[1] // BLOCK[1])) + 0.1
    return torch.rand((weight.shape[0], 1) if kind == "row" else (1,)) + 0.1


def product(numbers: Tensor, scale: Tensor, kind: str) -> Tensor:
    """Multiply every number by its scale, one after the other."""
    made = numbers.float()
    for row in range(made.shape[0]):
        for column in range(made.shape[1]):
            place = {"block": (row // BLOCK[0], column // BLOCK[1]), "row": (row, 0), "tensor": (0,)}[kind]
            made[row, column] *= scale[place]
    return made


def quantized(folder: Path, config: dict[str, Any], kind: str, dtype: torch.dtype, suffix: str) -> dict[str, Tensor]:
    """Quantise the projections of a small model; return its weights in fp32."""
    saved("llama", folder)
    torch.manual_seed(4)
    stored, plain = load_file(folder / "model.safetensors"), {}
    for name, weight in list(stored.items()):
        plain[name] = weight
        if "_proj" in name:
            numbers = (weight * 100).round().clamp(-127, 127).to(dtype)
            scale = scales(weight, kind) / 100
            stored |= {name: numbers, name.replace("weight", suffix): scale}
            plain[name] = product(numbers, scale, kind)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    return plain


CASES: dict[str, tuple[dict[str, Any], str, torch.dtype, str]] = {
    "fp8_blocks": (FP8, "block", torch.float8_e4m3fn, "weight_scale_inv"),
    "fp8_tensor": ({"quant_method": "fp8"}, "tensor", torch.float8_e4m3fn, "weight_scale"),
    "fp8_rows": (FLOAT8, "row", torch.float8_e4m3fn, "weight_scale"),
    "int8_rows": (INT8, "row", torch.int8, "weight_scale"),
}


@pytest.mark.parametrize("name", list(CASES))
def test_numbers_are_multiplied_by_their_scales(name: str, tmp_path: Path) -> None:
    plain = quantized(tmp_path / "model", *CASES[name])
    opened = detect(tmp_path / "model")
    assert opened.facts() == {"dequantised_weights": 14, "quant_method": CASES[name][0]["quant_method"]}
    found = opened.parameter("decoder.layers.1.mlp.linear_fc2", "weight")
    assert torch.equal(found, plain["model.layers.1.mlp.down_proj.weight"])
    assert (
        convert(
            Model(path=str(tmp_path / "model")), Convert(path=str(tmp_path / "hf"), dtype=Dtype.fp32, tokenizer=False)
        )
        == 0
    )
    assert torch.equal(logits(loaded(tmp_path / "hf")), logits(loaded(tmp_path / "model")))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    expected.load_state_dict(plain, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(logits(loaded(tmp_path / "model")), expected(TOKENS).logits, atol=2e-4, rtol=1e-4)


def changed(folder: Path, **tensors: Tensor | None) -> None:
    """Add tensors, or leave out those that are None; ``__`` stands for a point."""
    stored = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        stored.pop(name.replace("__", "."), None)
        stored |= {} if tensor is None else {name.replace("__", "."): tensor}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


LAYER = "model__layers__0__mlp__up_proj__weight_scale_inv"


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({LAYER: None}, r"up_proj\.weight' is of type F8_E4M3 without a scale \(expected one of weight_scale_inv"),
        ({LAYER: torch.ones(7, 3)}, r"of shape \[7, 3\], which does not fit the weight's \[48, 32\]"),
        ({"model__layers__0__mlp__up_proj__weight_zero_point": torch.ones(48, 1)}, "has no place in the model"),
    ],
)
def test_what_does_not_fit_is_refused(tensors: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    quantized(tmp_path, *CASES["fp8_blocks"])
    changed(tmp_path, **tensors)
    with pytest.raises(CheckpointError, match=complaint):
        detect(tmp_path)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused(name: str, value: float, tmp_path: Path) -> None:
    """Every logit was NaN, and every answer the first token."""
    quantized(tmp_path / "model", *CASES[name])
    module = "model.layers.1.self_attn.k_proj"
    key = f"{module}.{CASES[name][3]}"
    stored = load_file(tmp_path / "model" / "model.safetensors")
    stored[key].view(-1)[-1] = value
    save_file(stored, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    for use in (loaded, converted):
        with pytest.raises(CheckpointError, match=rf"'{module}\.weight' is NaN or infinite .* scales in .*'{key}'"):
            use(tmp_path / "model")


def converted(folder: Path) -> None:
    wanted = Convert(path=str(folder.parent / "hf"), dtype=Dtype.fp32, tokenizer=False)
    convert(Model(path=str(folder)), wanted)


@pytest.mark.parametrize("block", [[20, 32], [16, 33], [0, 32], [16], [True, 32]])
def test_blocks_that_may_fit_by_chance_are_refused(block: list[Any], tmp_path: Path) -> None:
    """Blocks of 20 rows cut 48 rows as often as blocks of 16: the weights were other ones."""
    quantized(tmp_path, *CASES["fp8_blocks"])
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    values["quantization_config"]["weight_block_size"] = block
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="expected two powers of two"):
        detect(tmp_path)


def test_the_scale_of_inputs_changes_no_weight(tmp_path: Path) -> None:
    quantized(tmp_path, *CASES["fp8_tensor"])
    before = logits(loaded(tmp_path))
    changed(tmp_path, model__layers__0__mlp__up_proj__input_scale=torch.tensor(0.5))
    assert torch.equal(logits(loaded(tmp_path)), before)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"quant_method": "quark"}, "quantization_config is set, and quark is not dequantised here"),
        ({"quant_method": "mxfp4"}, "mxfp4 is not dequantised here"),
        ({"bits": 4}, "quantization_config is set, and None is not dequantised here"),
        ({"quant_method": ["awq"]}, r"\['awq'\] is not dequantised here"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo is 'W4A8_AWQ'"),
        (FLOAT8 | {"sparsity_config": {"format": "sparse-24"}}, "sparsity_config is {'format': 'sparse-24'}"),
        ({"quant_method": "gptq", "bits": 4}, "is set for gptq, and no weight is stored so"),
    ],
)
def test_other_ways_name_the_servers_that_take_them(config: dict[str, Any], what: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    for reader, complaint in ((detect, what), (source.read, "")):
        with pytest.raises(CheckpointError, match=f"{complaint}.*backend=vllm or backend=sglang") as refused:
            reader(tmp_path)
        assert "\n" not in str(refused.value)


def test_numbers_without_scales_are_refused_by_both_engines(tmp_path: Path) -> None:
    """Before, engine=huggingface took 8-bit numbers for the weights themselves."""
    quantized(tmp_path, *CASES["fp8_blocks"])
    stored = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in stored.items() if "scale" not in n}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="without a scale"):
        detect(tmp_path)
    with pytest.raises(CheckpointError, match=r"is of type F8_E4M3, which .* not read; engine=megatron"):
        source.read(tmp_path)


@pytest.mark.parametrize("in_config", [True, False])
def test_modelopt_fp8_is_read_from_either_of_its_files(in_config: bool, tmp_path: Path) -> None:
    """As ModelOpt exports a model of NeMo: with scales of inputs and of the cache, which change no weight."""
    plain = quantized(tmp_path, *CASES["fp8_tensor"])
    about = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    one, two, zero = torch.ones(()), torch.full((), 2.0), torch.zeros(())
    changed(
        tmp_path,
        model__layers__0__self_attn__k_proj__k_scale=one,
        model__layers__0__self_attn__v_proj__v_scale=two,
        model__layers__1__mlp__up_proj__input_scale=zero,
    )
    file = tmp_path / "config.json"
    values = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "modelopt", **about}}
    if not in_config:
        del values["quantization_config"]
        (tmp_path / "hf_quant_config.json").write_text(
            json.dumps({"producer": {"name": "modelopt"}, "quantization": about})
        )
    file.write_text(json.dumps(values))
    opened = detect(tmp_path)
    assert opened.facts() == {"dequantised_weights": 14, "quant_method": "modelopt"}
    found = opened.parameter("decoder.layers.1.mlp.linear_fc2", "weight")
    assert torch.equal(found, plain["model.layers.1.mlp.down_proj.weight"])
