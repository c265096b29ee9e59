"""What a model takes in a parallel layout: parameters, bytes of cache, and whether the layout divides it."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.checkpoints.base import Architecture
from launcher.checkpoints.claims import expert_width
from launcher.core.errors import UserError
from launcher.engines.runtime import flash, invariant
from launcher.engines.runtime.sizing import BYTES
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
    """Raise `UserError` if tensor-parallel neighbours are on several nodes; ``nodes`` are those of all, in order."""
    for first in range(0, p.world_size, p.tensor):
        found = sorted(set(nodes[first : first + p.tensor]))
        if len(found) > 1:
            raise UserError(
                f"parallelism.tensor={p.tensor}: ranks {first} to {first + p.tensor - 1} are on {', '.join(found)}; "
                f"accepted is a multiple of {p.tensor} processes on each node, numbered node by node"
            )


def _check_supported(a: Architecture, p: Parallelism) -> None:
    if p.context > 1:
        raise UserError(
            f"parallelism.context={p.context}: accepted is 1; megatron-core splits a context only inside "
            "TransformerEngine's attention, over whole sequences without a cache; use parallelism.tensor or pipeline"
        )
    if p.expert > 1 and not a.num_experts:
        raise UserError(f"parallelism.expert={p.expert}: the model has no experts; accepted is 1")


def _check_experts(a: Architecture, p: Parallelism) -> None:
    """The tensor-parallel ranks share the experts: ``expert`` groups of them have whole ones, each cut in its group."""
    _divides("expert", p.expert, a.num_experts, "experts")
    if p.tensor % p.expert:
        raise UserError(
            f"parallelism.expert={p.expert}: experts are spread over the ranks of parallelism.tensor={p.tensor}; "
            f"accepted are divisors: {_divisors(p.tensor)}"
        )
    if a.bias and p.tensor != p.expert:
        raise UserError(
            f"parallelism.expert={p.expert}: experts with biases cannot be cut; "
            f"accepted with parallelism.tensor={p.tensor} is {p.tensor}"
        )
    _divides("tensor", p.tensor // p.expert, expert_width(a), "feed-forward channels of an expert")


def _divides(key: str, ranks: int, count: int, what: str) -> None:
    if count % ranks:
        raise UserError(
            f"parallelism.{key}={ranks}: the model has {count} {what}; accepted are divisors: {_divisors(count)}"
        )


def _divisors(count: int) -> str:
    return ", ".join(str(n) for n in range(1, min(count, 64) + 1) if count % n == 0)


def obstacles(a: Architecture) -> dict[str, str]:
    """Say why an optimization cannot be had for a model; only those that cannot are named."""
    found = {"flash_decode": flash.unfit(a.kv_channels)}
    if a.num_experts:
        found["batch_invariant"] = invariant.EXPERTS
        found["cuda_graphs"] = "a mixture of experts decides in every step what to compute, which no graph can hold"
    return {name: reason for name, reason in found.items() if reason}


def cache_bytes_per_token(a: Architecture, p: Parallelism, dtype: Dtype) -> int:
    """Return what one token's keys and values take on the rank that has the most of them."""
    layers, groups = a.num_layers // p.pipeline, a.num_query_groups // p.tensor
    return 2 * layers * groups * a.kv_channels * BYTES[dtype]
