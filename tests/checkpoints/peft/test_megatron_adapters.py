"""Adapters of NeMo 2.0 and Megatron-Bridge: the layout is that of NeMo 2.7's ``peft`` callback and ``LoRA``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.checkpoints import open_model
from launcher.checkpoints.torch_dist.writer import METADATA
from launcher.core.errors import CheckpointError
from launcher.pipeline.converting import convert
from launcher.settings.convert import Convert, Layout
from launcher.settings.model import Bounds, Model
from tests.checkpoints.checkpoint_models import filled, loaded, logits
from tests.checkpoints.export.test_convert import bridge

SHAPES = {"self_attention.linear_qkv": (64, 32), "self_attention.linear_proj": (32, 32), "mlp.linear_fc1": (96, 32)}
"""Rows and columns of what is changed, in a model of two layers."""

DIM, ALPHA = 4, 8


def written(folder: Path, kind: str = "LoRA", nemo: bool = True, extra: Any = None) -> dict[str, torch.Tensor]:
    """Write an adapter with random weights as NeMo does, or Megatron-Bridge; return its tensors."""
    torch.manual_seed(3)
    prefix = "module." if nemo else ""
    tensors: dict[str, torch.Tensor] = dict(extra or {})
    for module, (rows, columns) in SHAPES.items():
        name = f"{prefix}decoder.layers.{module}.adapter"
        tensors[f"{name}.linear_in.weight"] = 0.2 * torch.randn(2, DIM, columns)
        tensors[f"{name}.linear_out.weight"] = 0.2 * torch.randn(2, rows, DIM)
        if kind == "DoRA":
            tensors[f"{name}.weight_magnitude"] = torch.rand(2, rows)
    weights = folder / "weights" if nemo else folder
    weights.mkdir(parents=True)
    save(tensors, storage_writer=FileSystemWriter(weights, single_file_per_rank=True), no_dist=True)
    torch.save({}, weights / "common.pt")
    (weights / "metadata.json").write_text(json.dumps(METADATA))
    (weights / "adapter_metadata.json").write_text(json.dumps({"model_ckpt_path": "base"}))
    settings = {"alpha": ALPHA, "dim": DIM, "target_modules": [name.rsplit(".")[-1] for name in SHAPES]}
    if nemo:
        (folder / "context").mkdir()
        transform = {"_target_": f"nemo.collections.llm.peft.{kind.lower()}.{kind}", **settings}
        (folder / "context" / "model.yaml").write_text(yaml.safe_dump({"model_transform": transform}))
    else:
        peft = {"_target_": f"megatron.bridge.peft.{kind.lower()}.{kind}", **settings}
        (folder / "run_config.yaml").write_text(yaml.safe_dump({"peft": peft, "model": {}}))
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


@pytest.mark.parametrize(("kind", "nemo"), [("LoRA", True), ("LoRA", False), ("DoRA", True)])
def test_an_adapter_is_merged_into_every_layer(kind: str, nemo: bool, tmp_path: Path) -> None:
    base = bridge(tmp_path / "base")
    tensors = written(tmp_path / "adapter", kind, nemo)
    opened = open_model(base, Bounds(), str(tmp_path / "adapter"))
    expected: Any = loaded(base)
    for module in SHAPES:
        down, up = (tensors[f"decoder.layers.{module}.adapter.{name}.weight"] for name in ("linear_in", "linear_out"))
        for layer in range(2):
            weight = expected.get_parameter(f"decoder.layers.{layer}.{module}.weight").data
            weight += up[layer] @ down[layer] * (ALPHA / DIM)
            if kind == "DoRA":
                magnitude = tensors[f"decoder.layers.{module}.adapter.weight_magnitude"][layer]
                weight *= (magnitude / weight.norm(p=2, dim=1))[:, None]
    torch.testing.assert_close(logits(filled(opened.architecture, opened)), logits(expected), atol=1e-5, rtol=0)
    facts: Any = opened.facts()["peft"]
    assert facts.pop("fingerprint").startswith("sha256:")
    assert facts == {
        "path": str(tmp_path / "adapter"),
        "type": kind.upper(),
        "merged_weights": 6,
        "base": "base",
    }


@pytest.mark.parametrize("layout", [Layout.hf, Layout.gguf, Layout.nemo2])
def test_conversions_have_the_adapter_in_them(layout: Layout, tmp_path: Path) -> None:
    base = bridge(tmp_path / "base")
    written(tmp_path / "adapter")
    model = Model(path=str(base), peft=str(tmp_path / "adapter"))
    assert convert(model, Convert(path=str(tmp_path / "made"), format=layout, tokenizer=False)) == 0
    made = tmp_path / "made" / "model.gguf" if layout is Layout.gguf else tmp_path / "made"
    opened = open_model(base, Bounds(), str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded(made)), logits(filled(opened.architecture, opened)))


def opened(folder: Path, **base: Any) -> None:
    open_model(bridge(folder / "base", **base), Bounds(), str(folder / "adapter"))


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    name = "module.decoder.layers.mlp.experts.experts.linear_fc1.adapter.linear_in.weight"
    written(tmp_path / "adapter", extra={name: torch.zeros(2, DIM, 32)})
    with pytest.raises(CheckpointError, match=r"experts.* is not merged here; answers would ignore it"):
        opened(tmp_path)


def test_an_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "adapter")
    with pytest.raises(
        CheckpointError, match=r"an adapter of another model \(its base: base\): it changes .* of shape"
    ):
        opened(tmp_path, ffn_hidden_size=64)


def test_an_adapter_of_fewer_layers_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"in 2 of the 3 layers of .*base, and its target_modules are of all"):
        opened(tmp_path, num_layers=3)


@pytest.mark.parametrize(
    ("transform", "complaint"),
    [
        (None, r"no 'model_transform' in it \(expected the folder of an adapter"),
        ({"_target_": "x.CanonicalLoRA"}, r"the adapter is a 'CanonicalLoRA' \(merged: LoRA, DoRA\)"),
        ({"_target_": "x.LoRA", "dim": 8}, r"\(expected rank 8 of its settings\)"),
        ({"_target_": "x.DoRA", "dim": 4}, "has linear_in.weight, linear_out.weight .expected .*weight_magnitude"),
    ],
)
def test_settings_that_do_not_fit_are_refused(transform: Any, complaint: str, tmp_path: Path) -> None:
    written(tmp_path / "adapter")
    (tmp_path / "adapter" / "context" / "model.yaml").write_text(yaml.safe_dump({"model_transform": transform}))
    with pytest.raises(CheckpointError, match=complaint):
        opened(tmp_path)
