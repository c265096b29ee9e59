"""Compare the sizes that a checkpoint claims with its files, before memory is allocated."""

from __future__ import annotations

from launcher.checkpoints.base import Architecture
from launcher.checkpoints.parts import feed_forward_width
from launcher.core.errors import CheckpointError

SLACK = 2
"""How many times the stored numbers a model may have: its output layer may be its embedding, and axes are padded."""

FREE = 2**20
"""Parameters that cost nothing: what is wrong with a model so small is said by the tensor that is missing."""

LONGEST_CONTEXT = 10**9
"""Tokens. Models of today read ten million."""


def check(a: Architecture, numbers: int, source: object) -> None:
    """Raise `CheckpointError` for a model that is much larger than the ``numbers`` that are stored of it."""
    claimed = parameters(a)
    if claimed > max(FREE, SLACK * numbers):
        raise CheckpointError(
            f"{source}: claims a model of {claimed} parameters ({a.num_layers} layers of {a.hidden_size} channels"
            f"{f', {a.num_experts} experts' if a.num_experts else ''}); its files hold {numbers} numbers"
        )
    if a.context_length > LONGEST_CONTEXT:
        raise CheckpointError(
            f"{source}: claims a context of {a.context_length} tokens (expected at most {LONGEST_CONTEXT})"
        )


def parameters(a: Architecture) -> int:
    """Count the parameters of the whole model, norms and biases included."""
    queries, keys = a.num_attention_heads * a.kv_channels, a.num_query_groups * a.kv_channels
    norm = a.hidden_size * (2 if a.normalization == "LayerNorm" else 1)
    attention = a.hidden_size * (2 * queries + 2 * keys)
    attention += (queries + 2 * keys) * (a.bias or a.qkv_bias) + a.hidden_size * a.bias
    attention += 2 * a.kv_channels * (2 if a.normalization == "LayerNorm" else 1) * a.qk_norm
    layer = attention + 2 * norm + _feed_forward(a)
    positions = a.context_length * a.hidden_size * (a.position == "learned_absolute")
    embeddings = a.vocab_size * a.hidden_size * (1 if a.tied else 2)
    return a.num_layers * layer + norm + embeddings + positions


def _feed_forward(a: Architecture) -> int:
    width = feed_forward_width(a)
    inner = width * (2 if a.gated else 1)
    one = a.hidden_size * (inner + width) + (inner + a.hidden_size) * a.bias
    shared = a.hidden_size * (a.shared_expert_ffn_hidden_size or 0) * (3 if a.gated else 2)
    return one * max(1, a.num_experts) + a.hidden_size * (a.num_experts + a.shared_expert_gate) + shared


def expert_width(a: Architecture) -> int:
    """Return the feed-forward channels of one expert."""
    return a.expert_ffn_hidden_size or a.ffn_hidden_size
