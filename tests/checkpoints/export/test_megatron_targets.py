"""What is converted for Megatron: our readers and megatron-core's own load the same model from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.validation import StrictHandling

from launcher.checkpoints import detect
from launcher.checkpoints.export import folder as export
from launcher.checkpoints.export.folder import Wanted
from launcher.checkpoints.file_names import CONVERSION
from launcher.checkpoints.torch_dist.tensor_store import sharded_tensors
from launcher.core.errors import CheckpointError
from launcher.pipeline.converting import convert
from launcher.settings.convert import Convert, Layout
from launcher.settings.model import Model
from tests.checkpoints.checkpoint_models import architecture, built, loaded, logits
from tests.checkpoints.export.test_convert import MEGATRON, TINY, assert_same, bridge, converted
from tests.checkpoints.test_gguf import written as written_gguf
from tests.checkpoints.test_huggingface import saved

READ_AS = {Layout.torch_dist: "megatron_bridge", Layout.nemo2: "nemo2"}


def of_megatron_core(folder: Path, arch: Any, prefix: str) -> torch.Tensor:
    """Fill a model by ``dist_checkpointing.load``, every key of which must be there, and return its logits."""
    model: Any = built(arch, seed=9)
    wanted = model.sharded_state_dict(prefix=prefix)
    if arch.num_experts:  # TransformerEngine fuses no norm with experts; the local layers claim that it does
        for tensor in sharded_tensors(wanted):
            tensor.key = tensor.key.replace("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm.")
    found = dist_checkpointing.load(wanted, str(folder), strict=StrictHandling.RAISE_UNEXPECTED)
    model.load_state_dict({key.removeprefix(prefix): value for key, value in found.items()}, strict=False)
    return logits(model)


QUICK = {"llama_untied", "qwen2", "mixtral", "qwen2_moe", "gpt_neox"}
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.soak) for n in MEGATRON if n != "experts_apart"]


@pytest.mark.parametrize("layout", list(READ_AS))
@pytest.mark.parametrize("name", NAMES)
def test_every_reader_finds_the_same_model(name: str, layout: Layout, tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **MEGATRON[name])
    opened = converted(source, tmp_path / "made", shard_gb=2e-5, layout=layout)
    assert opened.layout == READ_AS[layout]
    expected = logits(loaded(source))
    assert torch.equal(logits(loaded(tmp_path / "made")), expected)
    within, prefix = ("weights", "module.") if layout is Layout.nemo2 else ("", "")
    assert len(list((tmp_path / "made" / within).glob("*.distcp"))) > 3
    assert torch.equal(of_megatron_core(tmp_path / "made" / within, opened.architecture, prefix), expected)


KEPT: dict[str, dict[str, Any]] = {
    "learned_positions": {"position": "learned_absolute", "normalization": "LayerNorm", "bias": True, "qkv_bias": True},
    "squared_relu": {"activation": "relu", "gated": False},
    "zero_centered": {"zero_centered_gamma": True, "dtype": "bf16"},
    "interleaved": {"rotary_interleaved": True, "rotary_percent": 0.5},
}


@pytest.mark.parametrize("name", list(KEPT))
def test_what_only_megatron_expresses_stays_as_it_is(name: str, tmp_path: Path) -> None:
    source = bridge(tmp_path / "source", **KEPT[name])
    opened = converted(source, tmp_path / "made", layout=Layout.nemo2)
    assert opened.architecture.zero_centered_gamma == detect(source).architecture.zero_centered_gamma
    assert torch.equal(logits(loaded(tmp_path / "made")), logits(loaded(source)))


@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen3_moe_raw", "gguf"])
def test_every_source_becomes_a_megatron_checkpoint(name: str, tmp_path: Path) -> None:
    if name == "gguf":
        source = written_gguf(tmp_path / "model.gguf")
    else:
        saved(name, source := tmp_path / "source")
    converted(source, tmp_path / "made", layout=Layout.torch_dist)
    assert torch.equal(logits(loaded(tmp_path / "made")), logits(loaded(source)))


def test_a_parallel_residual_is_refused(tmp_path: Path) -> None:
    saved("gpt_neox", tmp_path / "source")
    with pytest.raises(CheckpointError, match="configuration cannot have parallel_residual=True") as refused:
        converted(tmp_path / "source", tmp_path / "made", layout=Layout.nemo2)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("layout", list(READ_AS))
def test_the_tokenizer_goes_along(layout: Layout, tmp_path: Path) -> None:
    settings = Convert(path=str(tmp_path / "made"), format=layout)
    assert convert(Model(path=str(TINY)), settings) == 0
    within = {"nemo2": "context/nemo_tokenizer", "torch_dist": "tokenizer"}[layout.value]
    assert_same(detect(TINY).tokenizer(), tmp_path / "made" / within)
    assert detect(tmp_path / "made").tokenizer().encode("7+5=") == detect(TINY).tokenizer().encode("7+5=")
    recorded = json.loads((tmp_path / "made" / CONVERSION).read_text())
    files = {str(file.relative_to(tmp_path / "made")) for file in (tmp_path / "made").rglob("*") if file.is_file()}
    assert {*recorded["sha256"], CONVERSION} == files


@pytest.mark.parametrize("layout", list(READ_AS))
def test_every_end_of_an_answer_goes_along(layout: Layout, tmp_path: Path) -> None:
    """The tokenizer's own files name one; a chat model has several."""
    assert convert(Model(path=str(TINY)), Convert(path=str(tmp_path / "source"))) == 0
    (tmp_path / "source" / "generation_config.json").write_text(json.dumps({"eos_token_id": [10, 256]}))
    settings = Convert(path=str(tmp_path / "made"), format=layout)
    assert convert(Model(path=str(tmp_path / "source")), settings) == 0
    assert detect(tmp_path / "made").tokenizer().eos_ids == {10, 256}


def test_a_half_written_folder_continues(tmp_path: Path) -> None:
    source, target = bridge(tmp_path / "source"), tmp_path / "made"
    wanted = Wanted(Layout.nemo2, shard_gb=2e-5)
    conversion = export.prepare(detect(source), target, wanted, "none")

    def stop(line: str) -> None:
        if "__0_2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export.carry_out(conversion, None, stop)
    with pytest.raises(CheckpointError):
        detect(target)
    (target / "weights" / "__0_3.distcp.partial").write_bytes(b"half")
    lines: list[str] = []
    export.carry_out(export.prepare(detect(source), target, wanted, "none"), None, lines.append)
    assert lines[0].startswith("2 of ")
    assert torch.equal(logits(loaded(target)), logits(loaded(source)))
    assert not list(target.rglob("*.partial"))


def test_the_context_names_what_nemo_makes(tmp_path: Path) -> None:
    """A real NeMo 2.7.3 reads it (`tests/checkpoints/read_nemo2.py`); this holds the shape that it reads."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    source = tmp_path / "source"
    bridge(source)
    run = yaml.safe_load((source / "run_config.yaml").read_text())
    names = {"scale_factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "old_context_len": 16}
    (source / "run_config.yaml").write_text(yaml.safe_dump({"model": run["model"] | names}))
    opened = converted(source, tmp_path / "made", layout=Layout.nemo2)
    assert opened.architecture.rope_scaling == scaling | {"original_max_position_embeddings": 16}
    written = json.loads((tmp_path / "made" / "context" / "io.json").read_text())
    text = json.dumps(written["objects"])
    assert '"name": "Llama31Config"' in text
    assert '"name": "TrainerContext"' in text
    model = yaml.safe_load((tmp_path / "made" / "context" / "model.yaml").read_text())
    assert model["_target_"] == "nemo.collections.llm.gpt.model.llama.LlamaModel"
    assert architecture().num_layers == model["config"]["num_layers"]
