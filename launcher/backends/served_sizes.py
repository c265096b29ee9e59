"""The sizes of a model that a server splits over its ranks, and the splits that servers of other programs refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.checkpoints.base import Architecture
from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.engines.huggingface.source import HEADS, KEY_HEADS, LAYERS
from launcher.settings.model import Parallelism

WITHIN = ("text_config", "llm_config", "language_config")
"""Where models of several media keep the configuration of their text."""

CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
)
"""Where a server looks for the longest context; ``model_max_length``, such as of Command R, goes before."""

UNSCALED = ("default", "llama3", "mrope", "longrope", "su")
"""Kinds of rotary embedding by which no server makes a context longer than the configuration says."""

MOST = 1024
"""The largest number of ranks that a message lists."""


@dataclass(frozen=True)
class Sizes:
    """What a server splits, and the longest context; None where the files do not say, or only the server knows.

    ``width`` counts the channels that are split of a layer's feed-forward part.
    """

    heads: int | None = None
    key_heads: int | None = None
    layers: int | None = None
    width: int | None = None
    experts: int | None = None
    context_length: int | None = None

    @classmethod
    def of_architecture(cls, a: Architecture) -> Sizes:
        scaled = a.rope_scaling is not None and a.rope_scaling.get("rope_type") not in UNSCALED
        return cls(
            heads=a.num_attention_heads,
            key_heads=a.num_query_groups,
            layers=a.num_layers,
            width=None if a.num_experts else a.ffn_hidden_size,
            experts=a.num_experts,
            context_length=None if scaled else a.context_length,
        )

    @classmethod
    def of_config(cls, values: Mapping[str, Json]) -> Sizes:
        """Return what any ``config.json`` says, of any kind of model."""
        text = next((values[key] for key in WITHIN if isinstance(values.get(key), dict)), values)
        latent = text.get("kv_lora_rank")  # one compressed head, which every rank has whole
        return cls(
            heads=_first(text, HEADS),
            key_heads=None if latent else _first(text, KEY_HEADS),
            layers=_first(text, LAYERS),
            context_length=None if _is_scaled(text) else _longest(values, text),
        )


def _first(values: Mapping[str, Json], names: tuple[str, ...]) -> int | None:
    found = (values.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), None)


def _longest(values: Mapping[str, Json], text: Mapping[str, Json]) -> int | None:
    """Return the largest context of those that are written: servers differ in which one they take."""
    found = (_first(where, (name,)) for where in (values, text) for name in (*CONTEXT, "model_max_length"))
    return max((length for length in found if length is not None), default=None)


def _is_scaled(values: Mapping[str, Json]) -> bool:
    """Whether a server may compute a longer context than the one that is written."""
    for key in ("rope_parameters", "rope_scaling"):
        whole = values.get(key)
        parts = [whole, *whole.values()] if isinstance(whole, dict) else []  # one for each kind of layer
        for rope in parts:
            if isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) not in UNSCALED:
                return True
    return False


def check_split(sizes: Sizes, p: Parallelism) -> None:
    """Raise `UserError` for ranks that cannot share the model, by the rules of vLLM, SGLang and TensorRT-LLM alike.

    Ranks share heads evenly. Fewer key-value heads than ranks are repeated; a layer is never split over stages.
    """
    reason = _obstacle(sizes, p.tensor)
    if reason is not None:
        fit = [str(n) for n in range(1, min(sizes.heads or MOST, MOST) + 1) if _obstacle(sizes, n) is None]
        raise UserError(f"parallelism.tensor={p.tensor}: {reason}; expected one of {', '.join(fit)}")
    if sizes.layers is not None and p.pipeline > sizes.layers:
        raise UserError(
            f"parallelism.pipeline={p.pipeline}: the model has {sizes.layers} layers; expected at most that"
        )
    if p.expert > 1 and sizes.experts == 0:
        raise UserError(f"parallelism.expert={p.expert}: must be 1; the model has no experts")


def _obstacle(sizes: Sizes, ranks: int) -> str | None:
    """Return why so many tensor-parallel ranks cannot share a layer; None if they can."""
    heads, keys, width = sizes.heads, sizes.key_heads, sizes.width
    if heads is not None and heads % ranks:
        return f"must divide the model's {heads} attention heads"
    if keys is not None and keys % ranks and ranks % keys:
        return f"must divide the model's {keys} key-value heads, or be a multiple of them"
    if width is not None and width % ranks:
        return f"must divide the model's {width} feed-forward channels"
    return None


def check_context(asked: int | None, limit: int | None, path: str, longer: str) -> None:
    """Raise `UserError` for a longer context than the model's; ``longer`` is the variable that lets a server try."""
    if asked is None or limit is None or asked <= limit:
        return
    hint = f"; backend.environment.{longer}=1 lets the server take more" if longer else ""
    raise UserError(f"model.context_length={asked}: the checkpoint {path} allows 1 to {limit}{hint}")
