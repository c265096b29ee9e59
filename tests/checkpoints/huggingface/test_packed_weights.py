"""Weights of few bits: equal to what the formats' libraries make of them, in whole models, or refused in one line.

``quantized.safetensors`` was packed and dequantised by AutoAWQ 0.2.9, GPTQModel 7.7.0, compressed-tensors 0.20.1,
bitsandbytes 0.50.2 and ModelOpt 0.47.0; its metadata has each weight's settings. Models are packed here, bit by bit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from launcher.checkpoints import detect, parts
from launcher.checkpoints.huggingface.quantization.methods import weights
from launcher.checkpoints.huggingface.safetensors_index import read_index
from launcher.core.errors import CheckpointError
from launcher.engines.huggingface import source
from launcher.pipeline.converting import convert
from launcher.settings.convert import Convert
from launcher.settings.model import Bounds, Dtype, Model
from tests.checkpoints.checkpoint_models import loaded, logits
from tests.checkpoints.test_huggingface import saved

RECORDED = Path(__file__).parent.parent / "data" / "quantized.safetensors"
GROUP = 16


def test_numbers_are_those_of_the_formats_libraries(tmp_path: Path) -> None:
    stored = load_file(RECORDED)
    with safe_open(RECORDED, "pt") as file:
        cases = json.loads(file.metadata()["cases"])
    assert len(cases) == 25
    for name, config in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in stored.items() if key.startswith(f"{name}.")}
        expected = own.pop("expected")
        save_file({f"layer.{key}": tensor for key, tensor in own.items()}, folder / "model.safetensors")
        found = weights(folder, read_index(folder), {"quantization_config": config}, Bounds())
        assert list(found.entries) == ["layer.weight"]
        assert found.entries["layer.weight"].shape == tuple(expected.shape)
        assert torch.equal(found.read("layer.weight"), expected), name
        assert found.facts() == {"dequantised_weights": 1, "quant_method": config["quant_method"]}


def words(rows: list[list[int]], bits: int) -> Tensor:
    """Write the numbers of every row one after the other, from the lowest bit on, and cut the bits into words."""
    made = []
    for row in rows:
        stream = "".join(f"{number:0{bits}b}"[::-1] for number in row)
        stream += "0" * (-len(stream) % 32)
        values = [int(stream[at : at + 32][::-1], 2) for at in range(0, len(stream), 32)]
        made.append([value - 2**32 if value >= 2**31 else value for value in values])
    return torch.tensor(made, dtype=torch.int32)


def turned(rows: list[list[int]]) -> list[list[int]]:
    return [list(row) for row in zip(*rows, strict=True)]


class Quantized:
    """A random weight of few bits for a projection: its numbers, zero points, scales and groups, and the products."""

    def __init__(self, shape: tuple[int, int], bits: int, symmetric: bool = False, shuffled: bool = False) -> None:
        draw, (outputs, inputs) = random.Random(hash((shape, bits))), shape
        count = -(-inputs // GROUP)
        self.numbers = [[draw.randrange(2**bits) for _ in range(inputs)] for _ in range(outputs)]
        zero = 2 ** (bits - 1)
        self.zeros = [[zero if symmetric else draw.randrange(1, 2**bits) for _ in range(count)] for _ in range(outputs)]
        self.scales = (torch.rand(outputs, count) * 0.01 + 0.001).half()
        self.groups = [place // GROUP for place in range(inputs)]
        if shuffled:
            draw.shuffle(self.groups)
        self.weight = torch.tensor(
            [
                [
                    (number - self.zeros[row][group]) * float(self.scales[row, group])
                    for number, group in zip(numbers, self.groups, strict=True)
                ]
                for row, numbers in enumerate(self.numbers)
            ]
        )


def gptq(weight: Quantized, bits: int, offset: int) -> dict[str, Tensor]:
    return {
        "qweight": words(weight.numbers, bits).T,
        "qzeros": words([[zero - offset for zero in row] for row in turned(weight.zeros)], bits),
        "scales": weight.scales.T,
        "g_idx": torch.tensor(weight.groups, dtype=torch.int32),
    }


def awq(weight: Quantized) -> dict[str, Tensor]:
    def interleaved(rows: list[list[int]]) -> Tensor:
        """In a word of eight outputs, the even ones come first."""
        places = [8 * at + place for at in range(len(rows[0]) // 8) for place in (0, 2, 4, 6, 1, 3, 5, 7)]
        return words([[row[place] for place in places] for row in rows], 4)

    numbers, zeros = interleaved(turned(weight.numbers)), interleaved(turned(weight.zeros))
    return {"qweight": numbers, "qzeros": zeros, "scales": weight.scales.T}


def packed(weight: Quantized, bits: int, symmetric: bool) -> dict[str, Tensor]:
    made = {
        "weight_packed": words(weight.numbers, bits),
        "weight_scale": weight.scales,
        "weight_shape": torch.tensor(weight.weight.shape),
    }
    return made if symmetric else made | {"weight_zero_point": words(turned(weight.zeros), bits).T}


def grouped(bits: int, symmetric: bool) -> dict[str, Any]:
    about = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": GROUP}
    groups = {"group_0": {"targets": ["Linear"], "weights": about}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
Pack = Callable[[Quantized], Mapping[str, Tensor]]
CASES: dict[str, tuple[str, dict[str, Any], Callable[[tuple[int, int]], Quantized], Pack]] = {
    "gptq": ("llama", GPTQ, lambda shape: Quantized(shape, 4, symmetric=True), lambda w: gptq(w, 4, 1)),
    "gptq_reordered": (
        "qwen2",
        GPTQ | {"bits": 8, "desc_act": True, "sym": False, "checkpoint_format": "gptq_v2"},
        lambda shape: Quantized(shape, 8, shuffled=True),
        lambda w: gptq(w, 8, 0),
    ),
    "gptq_three_bits": (
        "gpt_neox",
        GPTQ | {"bits": 3, "sym": False},
        lambda s: Quantized(s, 3),
        lambda w: gptq(w, 3, 1),
    ),
    "awq": ("llama", AWQ, lambda shape: Quantized(shape, 4), awq),
    "awq_experts": ("mixtral", AWQ, lambda shape: Quantized(shape, 4), awq),
    "packed": ("qwen3", grouped(4, True), lambda s: Quantized(s, 4, symmetric=True), lambda w: packed(w, 4, True)),
    "packed_zero_points": ("llama", grouped(8, False), lambda s: Quantized(s, 8), lambda w: packed(w, 8, False)),
}
KEPT = ("layers.0.", "embed_in", "embed_tokens", "block_sparse_moe.gate.")
"""What stays unquantised, as `modules_to_not_convert` asks for; the output layer is quantised."""


def quantized(folder: Path, name: str) -> Path:
    """Quantise a small model into ``folder``; return a folder of the same weights in fp32."""
    kind, config, make, pack = CASES[name]
    saved(kind, folder / "quantized")
    saved(kind, folder / "plain")
    plain = load_file(folder / "plain" / "model.safetensors")
    stored = dict(plain)
    for key, tensor in plain.items():
        if tensor.ndim == 2 and not any(part in key for part in KEPT):
            weight = make((tensor.shape[0], tensor.shape[1]))
            plain[key] = weight.weight
            del stored[key]
            stored |= {key.replace("weight", part): value.contiguous() for part, value in pack(weight).items()}
    save_file(plain, folder / "plain" / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, folder / "quantized" / "model.safetensors", metadata={"format": "pt"})
    configure(folder / "quantized", config)
    return folder / "plain"


def configure(folder: Path, config: Mapping[str, Any], key: str = "quantization_config") -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: config}))


@pytest.mark.parametrize("name", list(CASES))
def test_a_quantised_model_is_the_model_of_its_products(name: str, tmp_path: Path) -> None:
    plain, found = detect(quantized(tmp_path, name)), detect(tmp_path / "quantized")
    assert found.architecture == plain.architecture
    assert found.facts()["dequantised_weights"]
    for module, kind in parts.parameters(plain.architecture):
        assert torch.equal(found.parameter(module, kind), plain.parameter(module, kind)), module


def test_a_quantised_model_is_served_and_converted(tmp_path: Path) -> None:
    plain = quantized(tmp_path, "awq")
    wanted = Convert(path=str(tmp_path / "hf"), dtype=Dtype.fp32, tokenizer=False)
    assert convert(Model(path=str(tmp_path / "quantized")), wanted) == 0
    expected = logits(loaded(plain))
    assert torch.equal(logits(loaded(tmp_path / "quantized")), expected)
    assert torch.equal(logits(loaded(tmp_path / "hf")), expected)
    with pytest.raises(CheckpointError, match=r"is set \(awq\), which .* not read; engine=megatron"):
        source.read(tmp_path / "quantized")


@pytest.mark.parametrize(
    ("name", "file", "values"),
    [
        ("gptq", "quantize_config.json", {"bits": 4, "group_size": GROUP, "desc_act": False}),
        ("awq", "quant_config.json", {"w_bit": 4, "q_group_size": GROUP, "version": "GEMM", "zero_point": True}),
    ],
)
def test_settings_may_be_in_the_library_s_own_file(
    name: str, file: str, values: Mapping[str, Any], tmp_path: Path
) -> None:
    plain = detect(quantized(tmp_path, name))
    configure(tmp_path / "quantized", {})
    (tmp_path / "quantized" / file).write_text(json.dumps(values))
    found = detect(tmp_path / "quantized")
    assert found.facts()["quant_method"] == name
    assert torch.equal(found.parameter("output_layer", "weight"), plain.parameter("output_layer", "weight"))


def test_settings_that_are_left_over_mean_nothing(tmp_path: Path) -> None:
    plain = saved("llama", tmp_path)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    assert detect(tmp_path).facts() == {}
    torch.testing.assert_close(logits(loaded(tmp_path)), plain, atol=1e-4, rtol=1e-4)
    assert source.read(tmp_path).kind == "llama"


def changed(folder: Path, part: str, change: Callable[[Tensor], Tensor | None]) -> None:
    """Change, or leave out, the part of one projection."""
    stored = load_file(folder / "model.safetensors")
    name = next(name for name in stored if name.endswith(part))
    found = change(stored.pop(name))
    stored |= {} if found is None else {name: found}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def read_whole(folder: Path) -> None:
    found = detect(folder)
    for module, kind in parts.parameters(found.architecture):
        found.parameter(module, kind)


def complaint(folder: Path) -> str:
    """Return in which words the whole model is refused."""
    with pytest.raises(CheckpointError) as refused:
        read_whole(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("gptq", {"bits": 5}, r"quantization_config: bits is 5 (dequantised: 2, 3, 4, 8); backend=vllm or backend=sglang"),
    ("gptq", {"bits": 8}, "expected I32 of shape"),
    ("gptq", {"group_size": 8}, "expected F64 or F32 or F16 or BF16 of shape [4, 64]"),
    ("gptq", {"group_size": 0}, "group_size is 0"),
    ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
    ("gptq", {"checkpoint_format": "gptq_v2"}, "holds other zero points than 8, and sym is true"),
    ("gptq", {"pack_dtype": "int16"}, "pack_dtype is 'int16'"),
    ("gptq", {"rotation": "hadamard"}, "rotation is 'hadamard'"),
    ("gptq_reordered", {"desc_act": False}, "is not in order, and desc_act is false"),
    ("awq", {"bits": 8}, "bits is 8 (4 is dequantised for awq)"),
    ("awq", {"version": "gemv"}, "version is 'gemv' (gemm is dequantised for awq)"),
    ("awq", {"zero_point": False}, "zero_point is false"),
    ("awq", {"group_size": 32}, "of shape [1, 8], which fits its quantised weight"),
    ("awq", {"quant_method": "quark"}, "quark is not dequantised here (fp8, compressed-tensors"),
    ("awq", {"quant_method": "mxfp4"}, "mxfp4 is not dequantised here"),
    ("packed", {"config_groups": {}}, "config_groups says nothing of weights"),
    ("packed", grouped(8, True), "does not fit one num_bits, group_size and symmetric"),
    ("packed", grouped(4, False), "does not fit one num_bits, group_size and symmetric"),
    ("packed", {"format": "marlin-24"}, "format is 'marlin-24'"),
    ("packed", {"transform_config": {"R1": {}}}, "transform_config is set"),
]


@pytest.mark.parametrize(("name", "settings", "words_of_it"), SETTINGS)
def test_settings_that_are_not_exact_are_refused(
    name: str, settings: dict[str, Any], words_of_it: str, tmp_path: Path
) -> None:
    quantized(tmp_path, name)
    configure(tmp_path / "quantized", CASES[name][1] | settings)
    found = complaint(tmp_path / "quantized")
    assert words_of_it in found
    assert (
        "backend=vllm or backend=sglang may serve it as it is" in found or "holds" in found or "not in order" in found
    )


def test_groups_of_a_row_have_one_size(tmp_path: Path) -> None:
    """Two groups of 32 inputs are of 16 each; a group_size of 20 would mean others, and has as many."""
    quantized(tmp_path, "packed")
    about = grouped(4, True)
    about["config_groups"]["group_0"]["weights"]["group_size"] = 20
    configure(tmp_path / "quantized", about)
    assert "does not fit one num_bits, group_size and symmetric" in complaint(tmp_path / "quantized")


TENSORS: list[tuple[str, str, Callable[[Tensor], Tensor | None], str]] = [
    ("gptq", "qzeros", lambda t: None, "is missing (its quantised weight needs it)"),
    ("gptq", "scales", lambda t: t[:, 1:].contiguous(), "which fits its quantised weight"),
    ("gptq", "scales", lambda t: t.to(torch.int32), "(expected a matrix of F64 or F32"),
    ("gptq", "g_idx", lambda t: t + 9, "names groups beyond the"),
    ("gptq", "qzeros", lambda t: torch.full_like(t, -1), "holds 15, a zero point that kernels read as 0 or 16"),
    ("awq", "qweight", lambda t: t.flatten(), "expected a matrix of I32"),
    ("packed", "weight_shape", lambda t: t + 1, "does not fit one num_bits"),
    ("packed", "weight_shape", lambda t: None, "is missing or no pair of whole numbers"),
    ("packed_zero_points", "weight_zero_point", lambda t: t.T.contiguous(), "which fits its quantised weight"),
]


@pytest.mark.parametrize(("name", "part", "change", "words_of_it"), TENSORS)
def test_tensors_that_do_not_fit_are_refused(
    name: str, part: str, change: Callable[[Tensor], Tensor | None], words_of_it: str, tmp_path: Path
) -> None:
    quantized(tmp_path, name)
    changed(tmp_path / "quantized", part, change)
    assert words_of_it in complaint(tmp_path / "quantized")


FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def test_four_bit_floats_of_modelopt_are_read(tmp_path: Path) -> None:
    """As ModelOpt exports a model of NeMo in NVFP4."""
    saved("llama", tmp_path)
    stored, name = load_file(tmp_path / "model.safetensors"), "model.layers.0.mlp.up_proj.weight"
    torch.manual_seed(6)
    pairs, outer = torch.randint(0, 256, (48, 16), dtype=torch.uint8), 0.0078125
    blocks = torch.randint(1, 9, (48, 2)).float()
    stored |= {name: pairs, f"{name}_scale": blocks.to(torch.float8_e4m3fn), f"{name}_scale_2": torch.tensor(outer)}
    stored[name.replace("weight", "input_scale")] = torch.tensor(3.0)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    about = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(about))
    found = detect(tmp_path).parameter("decoder.layers.0.mlp.linear_fc1", "weight")[48:]
    for row in range(48):
        for column in range(32):
            bits = int(pairs[row, column // 2]) >> (4 * (column % 2)) & 15
            value = (-1) ** (bits >> 3) * FP4[bits & 7] * float(blocks[row, column // 16]) * outer
            assert float(found[row, column]) == value
    changed(tmp_path, "weight_scale_2", lambda t: torch.ones(2))
    assert "expected F32 of shape []" in complaint(tmp_path)


def test_a_weight_is_plain_or_quantised(tmp_path: Path) -> None:
    quantized(tmp_path, "gptq")
    stored = load_file(tmp_path / "quantized" / "model.safetensors")
    stored["model.layers.1.mlp.up_proj.weight"] = torch.zeros(48, 32)
    save_file(stored, tmp_path / "quantized" / "model.safetensors")
    assert "is stored plain and quantised (expected one)" in complaint(tmp_path / "quantized")
