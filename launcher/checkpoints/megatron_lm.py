"""Megatron-LM checkpoints: ``iter_XXXXXXX/`` folders of ``torch_dist`` weights, with the arguments in ``common.pt``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoints.base import Checkpoint
from launcher.checkpoints.digest import fingerprint
from launcher.checkpoints.fields import flag
from launcher.checkpoints.iterations import TRACKER, latest
from launcher.checkpoints.megatron_config import architecture
from launcher.checkpoints.tokenizers.stored import megatron_tokenizer
from launcher.checkpoints.torch_dist import parts, tensor_store
from launcher.checkpoints.torch_dist.archive import read_arguments
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn

RENAMED = {
    "norm_epsilon": "layernorm_epsilon",
    "apply_layernorm_1p": "layernorm_zero_centered_gamma",
    "swiglu": "gated_linear_unit",
    "rotary_seq_len_interpolation_factor": "seq_len_interpolation_factor",
    "use_rope_scaling": "rope_scaling",
    "num_experts": "num_moe_experts",
    "bias_gelu_fusion": "bias_activation_fusion",
    "max_position_embeddings": "seq_length",
}
"""Megatron-LM's arguments that megatron-core's configuration calls otherwise."""


SWITCHES = ("group_query_attention", "swiglu", "squared_relu", "quick_geglu", "openai_gelu", "onnx_safe")
"""Megatron-LM's arguments that choose among others; each is true, false or left out."""


class MegatronLMCheckpoint(Checkpoint):
    """One iteration of a Megatron-LM run; ``path`` is the run's folder or that of an iteration."""

    layout = "megatron_lm"

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path = path
        self.bounds = bounds
        self._folder = latest(path)
        self._file = self._folder / "common.pt"
        self._store = tensor_store.open_store(self._folder, bounds)
        self._arguments = read_arguments(self._file, bounds)
        if not self._arguments:
            raise CheckpointError(f"{self._file}: no 'args' in it (expected the arguments of a Megatron-LM run)")
        for switch in SWITCHES:
            flag(self._arguments, switch, self._file)
        self.architecture = architecture(configuration(self._arguments), self._store, self._file)
        parts.check(self._store, self.architecture)

    @staticmethod
    def matches(path: Path) -> bool:
        return (path / TRACKER).is_file() or tensor_store.is_store(path)

    def tokenizer(self) -> Tokenizer:
        return megatron_tokenizer(self._arguments, self._folder, self._file, self.bounds)

    def load_into(self, model: nn.Module) -> None:
        tensor_store.load_into(self._store, model)

    def parameter(self, module: str, kind: str) -> Tensor:
        return tensor_store.parameter(self._store, self.architecture, module, kind)

    def fingerprint(self) -> str:
        return fingerprint(self.path, [*self._store.files(), self._file])


def configuration(arguments: Mapping[str, Json]) -> dict[str, Json]:
    """Return Megatron-LM's arguments under the names of megatron-core's configuration."""
    config = {key: value for key, value in arguments.items() if key not in RENAMED.values()}
    config |= {new: arguments[old] for old, new in RENAMED.items() if arguments.get(old) is not None}
    config.setdefault("seq_length", arguments.get("seq_length"))
    if not arguments.get("group_query_attention"):
        config["num_query_groups"] = None
    config["activation_func"] = _activation(arguments)
    return config


def _activation(arguments: Mapping[str, Json]) -> str:
    """Return the activation function's full name; several switches choose it."""
    if arguments.get("swiglu"):
        return "torch.nn.functional.silu"
    if arguments.get("squared_relu"):
        return "megatron.core.activations.squared_relu"
    other = next((name for name in ("quick_geglu", "openai_gelu", "onnx_safe") if arguments.get(name)), None)
    return f"--{other.replace('_', '-')}" if other else "torch.nn.functional.gelu"
