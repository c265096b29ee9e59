"""The few modules of megatron-core's GPT that we subclass, so that it runs anywhere over a paged cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import MegatronModule, TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn

from launcher.checkpoints.base import Architecture
from launcher.engines.runtime.linear import linear, packed
from launcher.engines.runtime.paged import AttentionMetadata


class Column(ColumnParallelLinear):  # type: ignore[misc]
    """`ColumnParallelLinear` without its autograd wrapping while nothing is differentiated."""

    def forward(
        self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled():
            out, bias = super().forward(input_, weight, runtime_gather_output)
            return out, bias
        out = linear(input_, self.weight if weight is None else weight, None if self.skip_bias_add else self.bias)
        return out, self.bias if self.skip_bias_add else None


class Row(RowParallelLinear):  # type: ignore[misc]
    """`RowParallelLinear` without its autograd wrapping while nothing is differentiated."""

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled():
            out, bias = super().forward(input_)
            return out, bias
        out = linear(input_, self.weight)
        if self.tp_group.size() > 1 and not self.explicit_expert_comm:
            torch.distributed.all_reduce(out, group=self.tp_group)
        if self.skip_bias_add or self.bias is None:
            return out, self.bias
        return out + self.bias, None


class Rotary(RotaryEmbedding):  # type: ignore[misc]
    """Rotary angles from a table on the model's device."""

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        a = architecture
        super().__init__(
            a.kv_channels, a.rotary_percent, a.rotary_interleaved, rotary_base=1, use_cpu_initialization=True
        )
        self.inv_freq = inverse_frequencies(a).to(device)
        self.table = self._angles(a.context_length)

    def forward(self, max_seq_len: int, offset: int = 0, packed_seq: bool = False, cp_group: Any = None) -> Tensor:
        if offset + max_seq_len > len(self.table):
            self.table = self._angles(offset + max_seq_len)
        return self.table[offset : offset + max_seq_len, None, None, :]

    def _angles(self, length: int) -> Tensor:
        """Return the angle of every position and rotated channel, [length, rotated]."""
        angles = torch.outer(torch.arange(length, device=self.inv_freq.device, dtype=torch.float32), self.inv_freq)
        return angles.repeat_interleave(2, -1) if self.rotary_interleaved else torch.cat((angles, angles), -1)


def inverse_frequencies(architecture: Architecture) -> Tensor:
    """Return the rotary frequencies, [rotated / 2], scaled by ``rope_scaling`` and divided by ``rope_factors``.

    Raises `ValueError` for a kind of scaling other than ``linear``, ``llama3`` or ``default``, and for factors that
    are not one for each frequency.
    """
    frequencies, factors = _scaled(architecture), architecture.rope_factors
    if factors is None:
        return frequencies
    if len(factors) != len(frequencies):
        raise ValueError(f"rope_factors: there are {len(factors)} (expected {len(frequencies)}, one per frequency)")
    return frequencies / torch.tensor(factors, dtype=torch.float32)


def _scaled(architecture: Architecture) -> Tensor:
    """Return the rotary frequencies, scaled as ``rope_scaling`` says."""
    rotated = int(architecture.kv_channels * architecture.rotary_percent)
    frequencies = 1.0 / architecture.rotary_base ** (torch.arange(0, rotated, 2, dtype=torch.float32) / rotated)
    scaling = architecture.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        return frequencies / float(scaling["factor"])
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    if kind != "default":
        raise ValueError(f"rope_scaling: '{kind}' is not supported; expected linear, llama3 or default")
    return frequencies


def _llama3(frequencies: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Scale as Llama 3.1 does: long wavelengths by the factor, short ones not, those between smoothly."""
    factor, low, high = (float(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(scaling["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (smooth + (1 - smooth) / factor)


class CausalAttention(MegatronModule):  # type: ignore[misc]
    """The core attention of a plain forward pass: torch's own, causal, over the whole sequence."""

    def __init__(self, config: TransformerConfig, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale
        self.window: int | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any) -> Tensor:
        """Attend [length, batch, heads, channels]; ``attention_mask`` is True where attention is not allowed."""
        length, batch, heads, _channels = query.shape
        q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        allowed = self._allowed(length, query.device) if attention_mask is None else ~attention_mask
        out = F.scaled_dot_product_attention(
            q, k, v, allowed, is_causal=allowed is None, scale=self.scale, enable_gqa=heads != key.shape[2]
        )
        return out.permute(2, 0, 1, 3).reshape(length, batch, -1)

    def _allowed(self, length: int, device: torch.device) -> Tensor | None:
        """Return the mask of a sliding window, or None where plain causal attention is meant."""
        if self.window is None or self.window >= length:
            return None
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return causal.triu(1 - self.window)


class PagedSelfAttention(SelfAttention):  # type: ignore[misc]
    """Megatron-core's self-attention, which in a step reads and writes the paged cache of its layer."""

    cache: Tensor

    def compute(self, hidden: Tensor, metadata: AttentionMetadata) -> tuple[Tensor, Tensor | None]:
        """Attend as ``metadata`` says; ``hidden`` is [tokens, 1, h]."""
        qkv, _ = self.linear_qkv(hidden)
        # [tokens, groups, queries of the group + key + value, channels]
        qkv = qkv.view(len(qkv), self.num_query_groups_per_partition, -1, self.hidden_size_per_attention_head)
        if self.config.qk_layernorm:
            queries, key, value = qkv[:, :, :-2], qkv[:, :, -2:-1], qkv[:, :, -1:]
            qkv = torch.cat((self.q_layernorm(queries), self.k_layernorm(key), value), 2)
        out, bias = self.linear_proj(metadata.attend(qkv, self.cache)[:, None])
        return out, bias


class Layer(TransformerLayer):  # type: ignore[misc]
    """Megatron-core's layer, with the straight path through it for a step, and GPT-NeoX's parallel residual."""

    parallel_residual: bool = False

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **plain: Any) -> tuple[Tensor, Any]:
        if not self.parallel_residual:
            out, context = super().forward(hidden_states, attention_mask, **plain)
            return out, context
        rotary = plain.get("rotary_pos_emb")
        attended = self.self_attention(self.input_layernorm(hidden_states), attention_mask, rotary_pos_emb=rotary)
        return self._join(hidden_states, *attended), None

    def compute(self, hidden: Tensor, metadata: AttentionMetadata) -> Tensor:
        """Map [tokens, 1, h] to the same shape."""
        return self._join(hidden, *self.self_attention.compute(self.input_layernorm(hidden), metadata))

    def _join(self, hidden: Tensor, attended: Tensor, bias: Tensor | None) -> Tensor:
        """Add what attention found, then what the feed-forward makes of it (or of the input, if they are parallel)."""
        after = _add(hidden, attended, bias)
        return _add(after, *self.mlp(self.pre_mlp_layernorm(hidden if self.parallel_residual else after)))


def _add(residual: Tensor, out: Tensor, bias: Tensor | None) -> Tensor:
    return residual + out if bias is None else residual + (out + bias)


class Experts(MoELayer):  # type: ignore[misc]
    """Megatron-core's mixture of experts without a token dispatcher.

    The tensor-parallel ranks all have every token, and each a part of the experts: a slice of every one, some whole
    ones, or both. So each computes what its part adds, and one sum over the ranks is the output. A shared expert is
    split over all of them and makes a sum of its own.
    """

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Map [tokens, batch, hidden] to the same shape."""
        weights, chosen = self.router(hidden_states)
        tokens = hidden_states.flatten(0, 1)
        out = torch.zeros_like(tokens)
        for index, expert in zip(self.local_expert_indices, self.experts.local_experts, strict=True):
            rows = chosen[:, index].nonzero()[:, 0]
            if len(rows):
                part, bias = expert(tokens.index_select(0, rows))
                part = (part if bias is None else part + bias) * weights[rows, index][:, None]
                out = out.index_add(0, rows, part.to(out.dtype))
        if self.tp_group.size() > 1:
            torch.distributed.all_reduce(out, group=self.tp_group)
        out = out.view_as(hidden_states)
        return out if self.shared_experts is None else out + self.shared_experts(hidden_states), None


class Router(TopKRouter):  # type: ignore[misc]
    """Megatron-core's router of experts, which leaves its weights on the device where they are."""

    def gating(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return F.linear(input.float(), self.weight.float(), bias)


class ZeroCenteredNorm(nn.Module):
    """LayerNorm or RMSNorm whose weight is stored as the distance from one (``layernorm1p``)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        self.bias = nn.Parameter(torch.zeros_like(self.weight)) if config.normalization == "LayerNorm" else None

    def forward(self, x: Tensor) -> Tensor:
        shape = self.weight.shape
        if self.bias is None:
            return F.rms_norm(x, shape, 1 + self.weight, self.eps)
        return F.layer_norm(x, shape, 1 + self.weight, self.bias, self.eps)


class GPT(GPTModel):  # type: ignore[misc]
    """Megatron-core's ``GPTModel``, which also computes a step from its `AttentionMetadata`.

    Its logits are those of this rank's part of the vocabulary; see `gather_logits`.
    """

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._output_weight: Tensor | None = None
        if self.pre_process:
            self.embedding.register_forward_hook(_plain_strides)

    def setup_embeddings_and_output_layer(self) -> None:
        """Mark a tied embedding that two stages hold; `tie` makes it equal once the model is on its device."""
        if not self.share_embeddings_and_output_weights or self.config.pipeline_model_parallel_size == 1:
            super().setup_embeddings_and_output_layer()
            return
        weight = self.shared_embedding_or_output_weight()
        if weight is not None:
            weight.shared_embedding = True
            weight.shared = not self.pre_process

    def pack(self) -> None:
        """Pack the weights of all layers, and a copy of the output layer's: a plain pass and an embedding read that."""
        for module in self.decoder.modules():
            if isinstance(module, Column | Row):
                module.weight = nn.Parameter(packed(module.weight), requires_grad=False)
        if self.post_process:
            self._output_weight = packed(self._output())

    def _output(self) -> Tensor:
        tied = self.share_embeddings_and_output_weights
        weight: Tensor = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        return weight

    def tie(self) -> None:
        """Copy the first stage's embedding to the last stage, where the two are tied and apart."""
        if self.share_embeddings_and_output_weights and not (self.pre_process and self.post_process):
            weight = self.shared_embedding_or_output_weight()
            if weight is not None:
                ranks = torch.distributed.get_process_group_ranks(self.embd_group)
                torch.distributed.broadcast(weight.data, ranks[0], group=self.embd_group)

    def compute(self, metadata: AttentionMetadata, hidden: Tensor | None = None) -> Tensor:
        """Run this rank's stage over a step, from token ids or from the previous stage's ``hidden`` [tokens, 1, h].

        Returns [rows, vocabulary part] on the last stage, else the hidden states [tokens, 1, h].
        """
        x: Tensor = self.embedding(metadata.tokens, metadata.positions) if hidden is None else hidden
        for layer in self.decoder.layers:
            x = layer.compute(x, metadata)
        return self._logits(x.index_select(0, metadata.rows)[:, 0]) if self.post_process else x

    def _logits(self, x: Tensor) -> Tensor:
        """Map [rows, h], the only rows that are needed, to [rows, vocabulary part]."""
        weight = self._output() if self._output_weight is None else self._output_weight
        return linear(self.decoder.final_layernorm(x), weight, self.output_layer.bias)


def _plain_strides(_module: nn.Module, _given: Any, out: Tensor) -> Tensor:
    """Return an embedding as if it had never been transposed: with other strides torch multiplies row by row."""
    return out.flatten(0, 1).view(out.shape)


def gather_logits(logits: Tensor) -> Tensor:
    """Join the vocabulary parts of all tensor-parallel ranks along the last axis, on any device."""
    size = parallel_state.get_tensor_model_parallel_world_size()
    if size == 1:
        return logits
    parts = [torch.empty_like(logits) for _ in range(size)]
    torch.distributed.all_gather(parts, logits.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return torch.cat(parts, -1)
