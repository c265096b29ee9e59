"""The checkpoint interface: an architecture, a tokenizer, and weights for this rank's part of the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json
from launcher.settings.model import Bounds

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer in Megatron-core's terms; sizes are in elements, lengths in tokens.

    ``rope_scaling`` is Hugging Face's dictionary (``rope_type: llama3`` or ``linear``). ``rope_factors`` divide the
    rotary frequencies, after that scaling: one for each, which is half of the rotated channels, finite and positive.
    ``shared_expert_ffn_hidden_size`` is the width of an expert that every token passes. With ``shared_expert_gate``,
    its output is multiplied by the sigmoid of one number per token.
    ``sliding_window`` is how many keys a query sees, itself included. ``dtype`` is that of the stored weights:
    ``fp32``, ``bf16`` or ``fp16``.
    ``vocab_size`` is the number of rows of the stored embedding (padding included).
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    ffn_hidden_size: int
    vocab_size: int
    context_length: int
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    norm_epsilon: float = 1e-5
    zero_centered_gamma: bool = False
    gated: bool = True
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "squared_relu"] = "silu"
    bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    position: Literal["rope", "learned_absolute", "none"] = "rope"
    rotary_base: float = 10000.0
    rotary_percent: float = 1.0
    rotary_interleaved: bool = False
    rope_scaling: Mapping[str, Json] | None = None
    rope_factors: tuple[float, ...] | None = None
    tied: bool = True
    parallel_residual: bool = False
    sliding_window: int | None = None
    num_experts: int = 0
    experts_per_token: int = 0
    expert_ffn_hidden_size: int | None = None
    normalize_expert_weights: bool = True
    shared_expert_ffn_hidden_size: int | None = None
    shared_expert_gate: bool = False
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"


class NotComputed(CheckpointError):
    """A whole checkpoint of a model that the megatron engine does not compute; another engine may."""


class Damaged(CheckpointError):
    """A checkpoint whose files are missing, cut short, or contradict each other: no program serves it rightly."""


class Checkpoint(ABC):
    """An opened checkpoint. Opening reads metadata only: no weights, no torch.

    ``layout`` is the name of its module (``megatron_lm``, ``nemo2``, ``huggingface``, ...). ``bounds`` are
    those that its files are read within.
    """

    layout: str
    path: Path
    architecture: Architecture
    bounds: Bounds

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer stored with the weights; `CheckpointError` if there is none."""

    @abstractmethod
    def load_into(self, model: nn.Module) -> None:
        """Fill this rank's part of a megatron-core ``GPTModel``, resharding to its parallel layout.

        Every parameter of the model is written, or `CheckpointError` says which is missing and in which file.
        """

    @abstractmethod
    def parameter(self, module: str, kind: str) -> Tensor:
        """Read one whole parameter as Megatron-core keeps it, by its name in the whole model.

        ``module`` and ``kind`` are those of `launcher.checkpoints.parts.parameters`; no other parameter is in memory.
        Raises `CheckpointError` if it is missing or damaged. `reading` must be open.
        """

    def reading(self) -> AbstractContextManager[None]:
        """Make the weights ready for `parameter`, and remove what that took."""
        return nullcontext()

    def facts(self) -> dict[str, Json]:
        """Return what reports and the server say beyond the layout: the adapter that is merged, if any."""
        return {}

    def unread_files(self) -> list[str]:
        """Return the names of files of weights that lie beside the checkpoint's own and are not read."""
        return []

    @abstractmethod
    def fingerprint(self) -> str:
        """Return ``sha256:...`` over what decides weights and tokenizer: metadata, file names, sizes and content."""
