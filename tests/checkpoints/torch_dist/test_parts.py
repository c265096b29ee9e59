"""What a distributed checkpoint holds is what the model is made of, in every layout, or it is refused by name."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter  # type: ignore[attr-defined]
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from launcher.checkpoints import detect
from launcher.checkpoints.torch_dist import tensor_store
from launcher.core.errors import CheckpointError
from tests.checkpoints import test_megatron_lm, test_nemo1
from tests.checkpoints.checkpoint_models import loaded, logits

TINY = Path(__file__).parents[3] / "launcher" / "assets" / "tiny"
NEMO2 = Path(__file__).parents[1] / "data" / "nemo2"
LAYOUTS: dict[str, Callable[[Path], object]] = {
    "nemo2": lambda folder: shutil.copytree(NEMO2, folder),
    "megatron_bridge": lambda folder: shutil.copytree(TINY, folder),
    "megatron_lm": lambda folder: test_megatron_lm.written(folder, test_megatron_lm.LLAMA),
    "nemo1": test_nemo1.written,
}


def rewrite(path: Path, change: Callable[[dict[str, Tensor], str], dict[str, Tensor]]) -> None:
    """Store other tensors in the checkpoint at ``path``; ``change`` gets those that are there, and their prefix."""
    folder = next(path.rglob("metadata.json")).parent
    store = tensor_store.open_store(folder)
    tensors = {key: torch.empty(t.shape, dtype=getattr(torch, t.dtype)) for key, t in store.tensors.items()}
    load(tensors, storage_reader=FileSystemReader(folder), no_dist=True)
    changed = change(tensors, store.prefix)
    for file in [folder / ".metadata", *folder.glob("*.distcp")]:
        file.unlink()
    save(changed, storage_writer=FileSystemWriter(folder, single_file_per_rank=True), no_dist=True)


@pytest.fixture(params=LAYOUTS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    LAYOUTS[request.param](tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "name",
    [
        "decoder.layers.self_attention.linear_proj.bias",
        "decoder.layers.self_attention.adapter.linear_in.weight",
        "v_head",
    ],
)
def test_a_tensor_without_a_place_is_refused(name: str, written: Path) -> None:
    rewrite(written, lambda tensors, prefix: tensors | {prefix + name: torch.ones(2, 32)})
    with pytest.raises(CheckpointError, match=f"tensor '.*{re.escape(name)}' has no place in the model"):
        detect(written)


def test_a_quantiser_of_modelopt_is_named(written: Path) -> None:
    name = "decoder.layers.mlp.linear_fc2.weight_quantizer._amax"
    rewrite(written, lambda tensors, prefix: tensors | {prefix + name: torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"weight_quantizer\._amax' is a quantiser of ModelOpt \(not read here"):
        detect(written)


def test_numbers_without_their_scales_are_no_weights(written: Path) -> None:
    """Before, a weight in fp8 was read as the numbers that are stored."""

    def change(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        name = next(name for name in tensors if name.endswith("mlp.linear_fc2.weight"))
        return tensors | {name: tensors[name].to(torch.float8_e4m3fn)}

    rewrite(written, change)
    with pytest.raises(CheckpointError, match=r"linear_fc2\.weight' is of type float8_e4m3fn \(expected float32"):
        detect(written)


def test_states_of_training_are_no_tensors_without_a_place(written: Path) -> None:
    expected = logits(loaded(written))
    states = [
        "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight",
        "chained_0.optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_bucket_idx_0.param",
        "rng_state/shard_0_1",
    ]
    rewrite(written, lambda tensors, _: tensors | {name: torch.ones(3) for name in states})
    assert torch.equal(logits(loaded(written)), expected)


def test_tensors_of_an_optimizer_are_no_model(written: Path) -> None:
    rewrite(written, lambda tensors, _: {f"optimizer.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"no tensor named 'embedding\.word_embeddings\.weight'"):
        detect(written)


def test_a_tensor_of_the_model_without_numbers_is_refused(written: Path) -> None:
    file = next(written.rglob(".metadata"))
    index = pickle.loads(file.read_bytes())
    name = next(name for name in index.state_dict_metadata if name.endswith("linear_fc1.weight"))
    index.state_dict_metadata[name].chunks = []
    file.write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointError, match=r"linear_fc1.* do not cover its shape"):
        detect(written)


def test_a_tensor_that_is_missing_is_named_before_anything_is_loaded(written: Path) -> None:
    rewrite(written, lambda tensors, _: {name: t for name, t in tensors.items() if "final_layernorm" not in name})
    with pytest.raises(CheckpointError, match=r"tensor '.*decoder\.final_layernorm\.weight' is missing"):
        detect(written)


def test_a_stack_of_another_number_of_layers_is_refused(written: Path) -> None:
    rewrite(written, lambda tensors, _: {n: t[:1] if ".layers." in n else t for n, t in tensors.items()})
    with pytest.raises(CheckpointError, match=r"has shape \[1, .*\] \(the model has \d layers\)"):
        detect(written)


MIXTURE = {"num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24}


@pytest.mark.parametrize(
    ("as_written", "genuine"),
    [
        ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),  # TransformerEngine fuses no norm and experts
        ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
    ],
)
def test_norms_are_found_under_either_name(as_written: str, genuine: str, tmp_path: Path) -> None:
    arguments = test_megatron_lm.LLAMA | MIXTURE
    made = test_megatron_lm.written(tmp_path, arguments, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=24)
    expected = logits(made)
    rewrite(tmp_path, lambda tensors, _: {name.replace(as_written, genuine): t for name, t in tensors.items()})
    assert torch.equal(logits(loaded(tmp_path)), expected)
