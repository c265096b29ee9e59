"""Probes, with one short forward pass, how a transformers model attends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from launcher.engines.huggingface.loading import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = "launcher_probe"
LENGTH = 8
"""Tokens of a probe."""

HARMLESS = {
    *("dropout", "scaling", "sliding_window", "is_causal", "position_ids", "position_embeddings", "use_cache"),
    *("cache_position", "past_key_values", "output_attentions", "output_hidden_states"),
}
"""Arguments of the attention interface that add nothing to masks and scales."""

KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer)
"""The cache layers of transformers that hold only keys and values of every token."""

MaskFunction = Callable[[int, int, Tensor, Tensor], Tensor]
"""Whether a query position sees a key position: (batch, head, query, key) -> bool, broadcasting."""


class NotPackable(Exception):
    """Why a model cannot compute many sequences in one packed pass."""


class NoKVCache(Exception):
    """Why a model cannot be served from cached keys and values."""


@dataclass(frozen=True)
class AttentionPattern:
    """How a layer attends: how far back (None: to the start), with how many queries per key, at which scale."""

    window: int | None
    queries: int
    scale: float


@dataclass(frozen=True)
class AttentionLayer:
    """An attention module of a model, with the shape of its keys and values: ``groups`` x ``channels`` each."""

    module: nn.Module
    groups: int
    channels: int
    pattern: AttentionPattern


@dataclass(frozen=True)
class CacheShape:
    """The shapes of one layer's cached keys and values, per token: ``groups`` x ``keys`` or ``values`` channels."""

    groups: int
    keys: int
    values: int


@contextmanager
def implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model attend through another function of transformers' interface inside the context."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def probe_attention(model: PreTrainedModel, context_length: int) -> list[AttentionLayer]:
    """Return the attention modules in the order of their calls.

    Raises `NotPackable` for any mixing of tokens other than causal attention, full or within a window.
    """
    if getattr(model, "_is_stateful", False):
        raise NotPackable("it keeps a recurrent state")
    if model.config._attn_implementation != "sdpa":
        raise NotPackable(f"its attention is {model.config._attn_implementation}, not sdpa")
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        with implementation(model, PROBE):
            _forward(model, use_cache=False)
    except NotPackable:
        raise
    except Exception as error:  # a model's own code may raise any exception
        raise NotPackable(f"it does not take another attention: {first_line(error)}") from error
    finally:
        _calls.reset(token)
    return _checked(calls, model, context_length)


def probe_cache(model: PreTrainedModel) -> list[CacheShape]:
    """Return the shapes of each layer's cache; `NoKVCache` if it caches anything but keys and values."""
    if getattr(model, "_is_stateful", False):
        raise NoKVCache("it keeps a recurrent state instead of keys and values")
    try:
        out = _forward(model, use_cache=True, past_key_values=DynamicCache(config=model.config))
    except Exception as error:  # a model's own code may raise any exception
        raise NoKVCache(f"it does not take a cache: {first_line(error)}") from error
    layers = getattr(out.get("past_key_values"), "layers", [])
    other = sorted({type(layer).__name__ for layer in layers if type(layer) not in KEYS_AND_VALUES})
    if other or not layers:
        raise NoKVCache(f"it caches {', '.join(other) or 'nothing'} (expected keys and values)")
    return [CacheShape(layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]) for layer in layers]


@dataclass(frozen=True)
class Call:
    """One call of the attention function during a probe."""

    module: nn.Module
    query: torch.Size
    key: torch.Size
    value: torch.Size
    mask_function: MaskFunction | None
    arguments: dict[str, Any]


_calls: ContextVar[list[Call]] = ContextVar("calls")


def _forward(model: PreTrainedModel, **settings: Any) -> Any:
    length = min(LENGTH, getattr(model.config, "max_position_embeddings", None) or LENGTH)
    tokens = torch.arange(length, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    with torch.inference_mode():
        return model(tokens, **settings)


def _record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """Attend as transformers does, and record the call."""
    mask_function = getattr(attention_mask, "mask_function", None)
    _calls.get().append(Call(module, query.shape, key.shape, value.shape, mask_function, arguments))
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    return out, None


def _record_mask(*arguments: Any, **settings: Any) -> Tensor | None:
    """Make a mask as transformers does, and attach the function that made it."""
    mask: Tensor | None = sdpa_mask(*arguments, **(settings | {"allow_is_causal_skip": False}))
    if mask is not None:
        mask.mask_function = settings.get("mask_function")  # type: ignore[attr-defined]
    return mask


AttentionInterface.register(PROBE, _record)
AttentionMaskInterface.register(PROBE, _record_mask)


def _checked(calls: list[Call], model: PreTrainedModel, context_length: int) -> list[AttentionLayer]:
    layers = model.config.get_text_config().num_hidden_layers
    if len(calls) != layers or len({call.module for call in calls}) != layers:
        raise NotPackable(f"{len(calls)} of its {layers} layers attend through transformers' interface")
    windows: dict[MaskFunction, int | None] = {}
    return [_checked_call(call, context_length, windows) for call in calls]


def _checked_call(call: Call, context_length: int, windows: dict[MaskFunction, int | None]) -> AttentionLayer:
    asked = sorted(k for k, v in call.arguments.items() if k not in HARMLESS and v is not None and v is not False)
    if asked:
        raise NotPackable(f"its attention also takes {', '.join(asked)}")
    (_, heads, _, channels), (_, groups, _, _) = call.query, call.key
    if call.mask_function is None:
        raise NotPackable("it makes its own attention masks")
    if call.key != call.value or channels != call.key[-1]:
        raise NotPackable("its keys and values differ in size")
    if call.mask_function not in windows:
        windows[call.mask_function] = window(call.mask_function, context_length)
    scale = call.arguments.get("scaling")
    pattern = AttentionPattern(
        windows[call.mask_function], heads // groups, channels**-0.5 if scale is None else float(scale)
    )
    return AttentionLayer(call.module, groups, channels, pattern)


def window(mask_function: MaskFunction, context_length: int) -> int | None:
    """Return how many tokens a token sees, itself included; None if all before it.

    Raises `NotPackable` for a mask that is neither causal nor a sliding window within ``context_length``.
    """
    keys = torch.arange(context_length)
    last = context_length - 1
    first = int(mask_function(0, 0, torch.tensor(last), keys).int().argmax())
    width = last - first + 1 if first else None
    edge = width or 0
    rows = {0, 1, edge - 1, edge, edge + 1, 2 * edge, last, *range(0, context_length, max(1, context_length // 16))}
    for row in sorted(r for r in rows if 0 <= r <= last):
        expected = (keys <= row) & (keys > row - (width or context_length))
        if not torch.equal(mask_function(0, 0, torch.tensor(row), keys).expand(context_length), expected):
            raise NotPackable("its attention is neither causal nor a sliding window")
    return width
