"""What a model takes: parameters, bytes of weights and of cache, and whether a layout divides it."""

from __future__ import annotations

from launcher.checkpoints.base import Architecture
from launcher.errors import UserError
from launcher.model import Dtype, Parallelism

GB = 1024**3

BYTES = {Dtype.fp32: 4, Dtype.bf16: 2, Dtype.fp16: 2}


def check_layout(a: Architecture, p: Parallelism, gpus: int) -> None:
    """Raise `UserError`, in one line that names the wrong number, for a layout that cannot work."""
    for name in ("tensor", "pipeline", "context", "expert"):
        if getattr(p, name) < 1:
            raise UserError(f"parallelism.{name}={getattr(p, name)}: must be at least 1")
    _check_supported(a, p)
    _divides("tensor", p.tensor, a.num_attention_heads, "attention heads")
    _divides("tensor", p.tensor, a.num_query_groups, "key-value heads")
    _divides("tensor", p.tensor, a.ffn_hidden_size, "feed-forward channels")
    _divides("tensor", p.tensor, a.vocab_size, "rows of the vocabulary")
    _divides("pipeline", p.pipeline, a.num_layers, "layers")
    if 0 < gpus < p.world_size:
        raise UserError(f"parallelism: {p.world_size} ranks need {p.world_size} GPUs; this host has {gpus}")


def _check_supported(a: Architecture, p: Parallelism) -> None:
    if p.context > 1:
        raise UserError(f"parallelism.context={p.context}: not offered for serving; accepted is 1")
    if p.expert > 1:
        raise UserError(f"parallelism.expert={p.expert}: not offered for serving; accepted is 1")
    if a.num_experts and p.tensor > 1:
        raise UserError(f"parallelism.tensor={p.tensor}: experts are not split; accepted is 1 (use pipeline)")


def _divides(key: str, ranks: int, count: int, what: str) -> None:
    if count % ranks:
        accepted = ", ".join(str(n) for n in range(1, min(count, 64) + 1) if count % n == 0)
        raise UserError(f"parallelism.{key}={ranks}: the model has {count} {what}; accepted are divisors: {accepted}")


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
    width = (a.expert_ffn_hidden_size or a.ffn_hidden_size) if a.num_experts else a.ffn_hidden_size
    inner = width * (2 if a.gated else 1)
    one = a.hidden_size * (inner + width) + (inner + a.hidden_size) * a.bias
    return one * max(1, a.num_experts) + a.hidden_size * a.num_experts


def cache_bytes_per_token(a: Architecture, p: Parallelism, dtype: Dtype) -> int:
    """Return what one token's keys and values take on the rank that has the most of them."""
    layers, groups = a.num_layers // p.pipeline, a.num_query_groups // p.tensor
    return 2 * layers * groups * a.kv_channels * BYTES[dtype]


def cache_blocks(tokens: int, block_size: int) -> int:
    """Return how many blocks hold so many tokens, and the one that belongs to nobody."""
    return -(-tokens // block_size) + 1
