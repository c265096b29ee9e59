"""The distributed format: written, read back over any layout of ranks, and refused when it is not whole."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from launcher.checkpoints.torch_dist import tensor_store
from launcher.checkpoints.torch_dist.tensor_store import TensorStore
from launcher.checkpoints.torch_dist.writer import save
from launcher.core.errors import CheckpointError
from tests.checkpoints.checkpoint_models import architecture, built, filled, logits


@dataclass(frozen=True)
class Opened:
    """The weights of an opened store."""

    store: TensorStore

    def load_into(self, model: nn.Module) -> None:
        tensor_store.load_into(self.store, model)


KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tied": False, "qkv_bias": True, "qk_norm": True},
    "gpt": {
        "gated": False,
        "bias": True,
        "qkv_bias": True,
        "activation": "gelu",
        "normalization": "LayerNorm",
        "position": "learned_absolute",
    },
    "zero_centered": {"zero_centered_gamma": True},
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_what_was_saved_is_loaded(kind: str, prefix: str, tmp_path: Path) -> None:
    arch = architecture(**KINDS[kind])
    model = built(arch)
    save(model, tmp_path, torch.float32, prefix)
    store = tensor_store.open_store(tmp_path)
    assert (store.prefix, store.tied, store.dtype) == (prefix, arch.tied, "fp32")
    other = filled(arch, Opened(store))
    assert torch.equal(logits(other), logits(model))


def test_bf16_files_load_into_fp32_models(tmp_path: Path) -> None:
    model = built(architecture())
    save(model, tmp_path, torch.bfloat16)
    store = tensor_store.open_store(tmp_path)
    assert store.dtype == "bf16"
    other = filled(architecture(), Opened(store))
    for name, parameter in other.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, model.get_parameter(name).bfloat16().float())


def test_layers_may_be_stored_apart(tmp_path: Path) -> None:
    model = built(architecture())
    apart = {"non_homogeneous_layers": True}
    _save_with(model, tmp_path, apart)
    store = tensor_store.open_store(tmp_path)
    assert store.layered
    other = filled(architecture(), Opened(store))
    assert torch.equal(logits(other), logits(model))


def _save_with(model: Any, folder: Path, metadata: dict[str, Any]) -> None:
    """Save under the names that megatron-core uses with this metadata."""

    class Renamed:
        def sharded_state_dict(self, prefix: str) -> Any:
            return model.sharded_state_dict(prefix=prefix, metadata=metadata)

    save(Renamed(), folder, torch.float32)  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(built(architecture()), tmp_path, torch.float32)
    return tmp_path


def test_opening_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from launcher.checkpoints.torch_dist.tensor_store import open_store;"
        f"open_store(Path({str(saved)!r})); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_data_file_that_is_gone_is_named(saved: Path) -> None:
    data = next(saved.glob("*.distcp"))
    data.unlink()
    with pytest.raises(CheckpointError, match=rf"{data.name}: missing \(expected a data file of at least \d+ bytes"):
        tensor_store.open_store(saved)


def test_a_data_file_cut_short_is_named(saved: Path) -> None:
    data = next(saved.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{data.name}: .* it was cut short"):
        tensor_store.open_store(saved)


def test_damaged_data_is_refused(saved: Path) -> None:
    data = next(saved.glob("*.distcp"))
    data.write_bytes(b"\0" * data.stat().st_size)
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: the weights at byte 0 cannot be read"):
        filled(architecture(), Opened(tensor_store.open_store(saved)))


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1})])
def test_a_damaged_index_is_refused(content: bytes, saved: Path) -> None:
    (saved / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"\.metadata: not an index"):
        tensor_store.open_store(saved)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def test_an_index_that_names_other_classes_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (saved / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"names 'builtins\.print', which is not allowed"):
        tensor_store.open_store(saved)
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"sharded_backend": "zarr"}', r"sharded_backend is 'zarr' \(expected torch_dist\)"),
        ("{", "not JSON"),
        ("[]", "no 'sharded_backend'"),
    ],
)
def test_another_backend_is_refused(content: str, complaint: str, saved: Path) -> None:
    (saved / "metadata.json").write_text(content)
    with pytest.raises(CheckpointError, match=complaint):
        tensor_store.open_store(saved)


def test_files_that_are_not_there_are_named(saved: Path) -> None:
    (saved / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"\.metadata: missing"):
        tensor_store.open_store(saved)
    (saved / "metadata.json").unlink()
    with pytest.raises(CheckpointError, match=r"metadata\.json: missing"):
        tensor_store.open_store(saved)


def test_a_tensor_that_the_model_needs_is_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'decoder\.layers\.self_attention\.linear_qkv\.bias' is missing"):
        filled(architecture(qkv_bias=True), Opened(tensor_store.open_store(saved)))


def test_another_shape_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has shape \[2, .*\] \(the model needs \[2, "):
        filled(architecture(ffn_hidden_size=64), Opened(tensor_store.open_store(saved)))


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    class Other:
        def sharded_state_dict(self, prefix: str) -> Any:
            from megatron.core.dist_checkpointing.mapping import ShardedTensor

            return {"x": ShardedTensor.from_rank_offsets("x", torch.ones(2))}

    save(Other(), tmp_path, torch.float32)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="expected a megatron-core GPT model"):
        tensor_store.open_store(tmp_path)


def test_the_written_description_is_that_of_megatron_core(saved: Path) -> None:
    genuine = Path(__file__).parents[1] / "data" / "nemo2" / "weights" / "metadata.json"
    assert json.loads((saved / "metadata.json").read_text()) == json.loads(genuine.read_text())
