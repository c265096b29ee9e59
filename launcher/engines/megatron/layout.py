"""Checks that a parallel layout divides a model, and the bytes of cache that a rank needs."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.checkpoints.base import Architecture
from launcher.checkpoints.claims import expert_width
from launcher.core.errors import UserError
from launcher.engines.runtime import decode_kernels, invariant
from launcher.engines.runtime.dtypes import BYTES
from launcher.engines.runtime.sizing import LEAST_PACKED
from launcher.settings.model import Dtype, Parallelism


def check_layout(a: Architecture, p: Parallelism, gpus: int) -> None:
    """Raise `UserError`, in one line that names the wrong number, for a layout that cannot work."""
    _check_supported(a, p)
    _divides("tensor", p.tensor, a.num_attention_heads, "attention heads")
    _divides("tensor", p.tensor, a.num_query_groups, "key-value heads")
    if a.num_experts:
        _check_experts(a, p)
    else:
        _divides("tensor", p.tensor, a.ffn_hidden_size, "feed-forward channels")
    _divides("tensor", p.tensor, a.vocab_size, "rows of the vocabulary")
    _divides("pipeline", p.pipeline, a.num_layers, "layers")
    if 0 < gpus < p.world_size:
        raise UserError(f"parallelism: {p.world_size} ranks need {p.world_size} GPUs; this host has {gpus}")


def check_nodes(p: Parallelism, nodes: Sequence[str]) -> None:
    """Raise `UserError` if tensor-parallel neighbours are on several nodes; ``nodes`` has one entry per rank."""
    for first in range(0, p.world_size, p.tensor):
        found = sorted(set(nodes[first : first + p.tensor]))
        if len(found) > 1:
            raise UserError(
                f"parallelism.tensor={p.tensor}: ranks {first} to {first + p.tensor - 1} are on {', '.join(found)}; "
                f"start a multiple of {p.tensor} processes on each node, numbered node by node"
            )


def _check_supported(a: Architecture, p: Parallelism) -> None:
    if p.context > 1:
        raise UserError(
            f"parallelism.context={p.context}: must be 1; megatron-core splits a context only inside "
            "TransformerEngine's attention, over whole sequences without a cache; use parallelism.tensor or pipeline"
        )
    if p.expert > 1 and not a.num_experts:
        raise UserError(f"parallelism.expert={p.expert}: must be 1; the model has no experts")


def _check_experts(a: Architecture, p: Parallelism) -> None:
    """Check how the tensor-parallel ranks share the experts: ``expert`` groups of ranks, each with its own experts."""
    _divides("expert", p.expert, a.num_experts, "experts")
    if p.tensor % p.expert:
        raise UserError(
            f"parallelism.expert={p.expert}: must divide parallelism.tensor={p.tensor}, whose ranks share the experts; "
            f"expected one of {_divisors(p.tensor)}"
        )
    if a.bias and p.tensor != p.expert:
        raise UserError(
            f"parallelism.expert={p.expert}: must equal parallelism.tensor={p.tensor}, because experts with biases "
            "cannot be split"
        )
    _divides("tensor", p.tensor // p.expert, expert_width(a), "feed-forward channels of an expert")
    _divides("tensor", p.tensor, a.shared_expert_ffn_hidden_size or 0, "feed-forward channels of the shared expert")


def _divides(key: str, ranks: int, count: int, what: str) -> None:
    if count % ranks:
        raise UserError(
            f"parallelism.{key}={ranks}: must divide the model's {count} {what}; expected one of {_divisors(count)}"
        )


def _divisors(count: int) -> str:
    return ", ".join(str(n) for n in range(1, min(count, 64) + 1) if count % n == 0)


def obstacles(a: Architecture) -> dict[str, str]:
    """Return the optimizations that a model cannot have, with the reason."""
    found = {"flash_decode": decode_kernels.head_dim_obstacle(a.kv_channels)}
    if a.num_experts:
        found["batch_invariant"] = invariant.EXPERTS
        found["cuda_graphs"] = "a mixture of experts chooses in each step what to compute, which a graph cannot capture"
    return {name: reason for name, reason in found.items() if reason}


def cache_bytes_per_token(a: Architecture, p: Parallelism, dtype: Dtype) -> int:
    """Return the bytes of one token's keys and values on the rank that has the most of them."""
    layers, groups = a.num_layers // p.pipeline, a.num_query_groups // p.tensor
    return 2 * layers * groups * a.kv_channels * BYTES[dtype]


def packed_output_bytes(a: Architecture, p: Parallelism, dtype: Dtype, device: str) -> int:
    """Return the bytes of the packed copy of the output layer on the rank that has it; 0 where there is none.

    A CPU without AVX-512 has none either, which is not known before it serves.
    """
    numbers = a.vocab_size // p.tensor * a.hidden_size
    packs = device == "cpu" and dtype in (Dtype.fp32, Dtype.bf16) and numbers >= LEAST_PACKED
    return numbers * BYTES[dtype] if packs else 0
