"""The parameter names and shapes of a megatron-core GPT, derived from its architecture without building it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from launcher.checkpoints.base import Architecture, Damaged, NotComputed

LAYER = "decoder.layers."
EXPERT = "mlp.experts.local_experts."
QKV = "self_attention.linear_qkv"
SHARED = "mlp.shared_experts"
GATE = "gate_weight"
"""The one row by which the output of a shared expert is weighted; it belongs to the expert itself."""


def parameters(a: Architecture) -> Iterator[tuple[str, str]]:
    """Yield every parameter of the whole model as its module's name and its own: ``weight`` or ``bias``."""
    yield "embedding.word_embeddings", "weight"
    if a.position == "learned_absolute":
        yield "embedding.position_embeddings", "weight"
    for layer in range(a.num_layers):
        for part, kind in of_a_layer(a):
            yield f"{LAYER}{layer}.{part}", kind
    yield from _norm(a, "decoder.final_layernorm")
    if not a.tied:
        yield "output_layer", "weight"


def of_a_layer(a: Architecture) -> Iterator[tuple[str, str]]:
    """Yield the parameters of any layer, relative to it."""
    yield from _norm(a, "input_layernorm")
    yield from _linear(QKV, a.bias or a.qkv_bias)
    for name in ("q_layernorm", "k_layernorm") if a.qk_norm else ():
        yield from _norm(a, f"self_attention.{name}")
    yield from _linear("self_attention.linear_proj", a.bias)
    yield from _norm(a, "pre_mlp_layernorm")
    if a.num_experts:
        yield from _linear("mlp.router", a.bias)
    inside = (f"{EXPERT}{expert}." for expert in range(a.num_experts)) if a.num_experts else ["mlp."]
    for before in inside:
        yield from _linear(f"{before}linear_fc1", a.bias)
        yield from _linear(f"{before}linear_fc2", a.bias)
    if a.shared_expert_ffn_hidden_size:
        yield from _shared_expert(a)


def _shared_expert(a: Architecture) -> Iterator[tuple[str, str]]:
    if a.shared_expert_gate:
        yield SHARED, GATE
    yield f"{SHARED}.linear_fc1", "weight"
    yield f"{SHARED}.linear_fc2", "weight"


def shape(a: Architecture, module: str, kind: str) -> tuple[int, ...]:
    """Return the shape of a whole parameter, named as `parameters` names it."""
    before, _, name = module.rpartition(".")
    shared = a.shared_expert_ffn_hidden_size if before.endswith(SHARED) else None
    rows, columns = _matrix(a, name, shared or feed_forward_width(a))
    return (rows,) if kind == "bias" or not columns else (rows, columns)


def feed_forward_width(a: Architecture) -> int:
    """Return the channels of a layer's feed-forward part, or of each expert that tokens choose."""
    return (a.expert_ffn_hidden_size or a.ffn_hidden_size) if a.num_experts else a.ffn_hidden_size


def _matrix(a: Architecture, name: str, width: int) -> tuple[int, int]:
    """Return the rows and columns of a module's weight; 0 columns for a vector. ``width`` is that of its channels."""
    queries = a.num_attention_heads * a.kv_channels
    known = {
        "word_embeddings": (a.vocab_size, a.hidden_size),
        "position_embeddings": (a.context_length, a.hidden_size),
        "output_layer": (a.vocab_size, a.hidden_size),
        "linear_qkv": (queries + 2 * a.num_query_groups * a.kv_channels, a.hidden_size),
        "linear_proj": (a.hidden_size, queries),
        "q_layernorm": (a.kv_channels, 0),
        "k_layernorm": (a.kv_channels, 0),
        "router": (a.num_experts, a.hidden_size),
        "shared_experts": (1, a.hidden_size),
        "linear_fc1": (width * (2 if a.gated else 1), a.hidden_size),
        "linear_fc2": (a.hidden_size, width),
    }
    return known.get(name, (a.hidden_size, 0))


def _norm(a: Architecture, module: str) -> Iterator[tuple[str, str]]:
    yield from _linear(module, a.normalization == "LayerNorm")


def _linear(module: str, bias: bool) -> Iterator[tuple[str, str]]:
    yield module, "weight"
    if bias:
        yield module, "bias"


def refuse_uncomputed(a: Architecture, source: object) -> None:
    """Raise `NotComputed` for a choice of experts that megatron-core does not make."""
    if a.num_experts and a.experts_per_token > a.num_experts:
        raise NotComputed(f"{source}: {a.experts_per_token} experts per token (expected at most {a.num_experts})")
    if a.num_experts and a.experts_per_token == 1 and a.normalize_expert_weights:
        raise NotComputed(f"{source}: one expert per token with its weight made 1 (expected two or more)")
    if a.shared_expert_ffn_hidden_size and (a.bias or not a.num_experts):
        what = "biases" if a.bias else "no others to choose from"
        raise NotComputed(f"{source}: a shared expert with {what} (expected one without biases, beside others)")


def refuse_unplaced(stored: Iterable[str], taken: Collection[str], source: object) -> None:
    """Raise `Damaged` if a stored tensor is not ``taken``; those that change no answer are not to be given."""
    left = sorted(set(stored) - set(taken))
    if left:
        more = f", nor have {len(left) - 1} more" if len(left) > 1 else ""
        raise Damaged(f"{source}: tensor '{left[0]:.200}' has no place in the model{more}; answers would ignore it")
