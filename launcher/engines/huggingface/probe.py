"""Finds out, by one short forward pass, how a transformers model attends."""

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
"""Arguments of the attention interface that ask for nothing beyond what masks and scales say already."""

KEYS_AND_VALUES = (DynamicLayer, DynamicSlidingWindowLayer)
"""The layers of transformers' caches that hold keys and values of every token, and nothing else."""

MaskRule = Callable[[int, int, Tensor, Tensor], Tensor]
"""Whether a query position sees a key position: (batch, head, query, key) -> bool, broadcasting."""


class NotPaged(Exception):
    """Why a model cannot compute many sequences in one flat pass."""


class NoKeysAndValues(Exception):
    """Why a model cannot be served from cached keys and values at all."""


@dataclass(frozen=True)
class AttentionPattern:
    """How a layer attends: how far back (None: to the start), with how many queries per key, at which scale."""

    window: int | None
    queries: int
    scale: float


@dataclass(frozen=True)
class Attending:
    """An attention module of a model, with the shape of its keys and values: ``groups`` x ``channels`` each."""

    module: nn.Module
    groups: int
    channels: int
    rule: AttentionPattern


@dataclass(frozen=True)
class Pair:
    """The shapes of one layer's cached keys and values, per token: ``groups`` x ``keys`` or ``values`` channels."""

    groups: int
    keys: int
    values: int


@contextmanager
def implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model attend by another function of transformers' interface for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attending(model: PreTrainedModel, context_length: int) -> list[Attending]:
    """Return the attention modules in the order of their calls.

    Raises `NotPaged` if tokens mix in any way other than causal attention, over everything or within a window.
    """
    if getattr(model, "_is_stateful", False):
        raise NotPaged("it keeps a recurrent state")
    if model.config._attn_implementation != "sdpa":
        raise NotPaged(f"its attention is {model.config._attn_implementation}, not sdpa")
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        with implementation(model, PROBE):
            _forward(model, use_cache=False)
    except NotPaged:
        raise
    except Exception as error:  # every model's own code may raise its own
        raise NotPaged(f"it does not take another attention: {first_line(error)}") from error
    finally:
        _calls.reset(token)
    return _checked(calls, model, context_length)


def cached(model: PreTrainedModel) -> list[Pair]:
    """Return the shapes of what each layer caches; `NoKeysAndValues` if that is not keys and values."""
    if getattr(model, "_is_stateful", False):
        raise NoKeysAndValues("it keeps a recurrent state, which is no keys and values to cache")
    try:
        out = _forward(model, use_cache=True, past_key_values=DynamicCache(config=model.config))
    except Exception as error:  # every model's own code may raise its own
        raise NoKeysAndValues(f"it does not take a cache: {first_line(error)}") from error
    layers = getattr(out.get("past_key_values"), "layers", [])
    other = sorted({type(layer).__name__ for layer in layers if type(layer) not in KEYS_AND_VALUES})
    if other or not layers:
        raise NoKeysAndValues(f"it caches {', '.join(other) or 'nothing'} (expected keys and values)")
    return [Pair(layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]) for layer in layers]


@dataclass(frozen=True)
class Call:
    """One call of the attention function during a probe."""

    module: nn.Module
    query: torch.Size
    key: torch.Size
    value: torch.Size
    rule: MaskRule | None
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
    """Attend as transformers does, and note the call."""
    rule = getattr(attention_mask, "rule", None)
    _calls.get().append(Call(module, query.shape, key.shape, value.shape, rule, arguments))
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    return out, None


def _record_mask(*arguments: Any, **settings: Any) -> Tensor | None:
    """Make a mask as transformers does, and tie to it the rule it was made by."""
    mask: Tensor | None = sdpa_mask(*arguments, **(settings | {"allow_is_causal_skip": False}))
    if mask is not None:
        mask.rule = settings.get("mask_function")  # type: ignore[attr-defined]
    return mask


AttentionInterface.register(PROBE, _record)
AttentionMaskInterface.register(PROBE, _record_mask)


def _checked(calls: list[Call], model: PreTrainedModel, context_length: int) -> list[Attending]:
    layers = model.config.get_text_config().num_hidden_layers
    if len(calls) != layers or len({call.module for call in calls}) != layers:
        raise NotPaged(f"{len(calls)} of its {layers} layers attend through transformers' interface")
    windows: dict[MaskRule, int | None] = {}
    return [_checked_call(call, context_length, windows) for call in calls]


def _checked_call(call: Call, context_length: int, windows: dict[MaskRule, int | None]) -> Attending:
    asked = sorted(k for k, v in call.arguments.items() if k not in HARMLESS and v is not None and v is not False)
    if asked:
        raise NotPaged(f"its attention also takes {', '.join(asked)}")
    (_, heads, _, channels), (_, groups, _, _) = call.query, call.key
    if call.rule is None:
        raise NotPaged("it makes its own attention masks")
    if call.key != call.value or channels != call.key[-1]:
        raise NotPaged("its keys and values differ in size")
    if call.rule not in windows:
        windows[call.rule] = window(call.rule, context_length)
    scale = call.arguments.get("scaling")
    rule = AttentionPattern(windows[call.rule], heads // groups, channels**-0.5 if scale is None else float(scale))
    return Attending(call.module, groups, channels, rule)


def window(rule: MaskRule, context_length: int) -> int | None:
    """Return how many tokens a token sees, itself included; None if all before it.

    Raises `NotPaged` for a rule that is neither causal nor a sliding window within ``context_length``.
    """
    keys = torch.arange(context_length)
    last = context_length - 1
    first = int(rule(0, 0, torch.tensor(last), keys).int().argmax())
    width = last - first + 1 if first else None
    edge = width or 0
    rows = {0, 1, edge - 1, edge, edge + 1, 2 * edge, last, *range(0, context_length, max(1, context_length // 16))}
    for row in sorted(r for r in rows if 0 <= r <= last):
        expected = (keys <= row) & (keys > row - (width or context_length))
        if not torch.equal(rule(0, 0, torch.tensor(row), keys).expand(context_length), expected):
            raise NotPaged("its attention is neither causal nor a sliding window")
    return width
