"""A CUDA graph on the CPU: it replays the operations of one run on the same memory, without their code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS_FOR_THE_HOST = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "lift_fresh"}


class Tape(TorchDispatchMode):
    """A `GraphCapturer` that records every operation with its own tensors. A replay overwrites each result in place.

    Raises `AssertionError` for an operation whose result the host must read, which no graph can capture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.played = 0

    def capture(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self._calls = []
        with self:
            out = function()
        calls = self._calls
        return out, lambda: self._play(calls)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITS_FOR_THE_HOST, f"a step waits for the host: {func}"
        assert all(t.device.type == "cpu" for t in _tensors((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        held = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        # A view, or what was changed in place, needs no copy: it lies in the memory of an argument.
        fresh = [t if t.untyped_storage().data_ptr() not in held else None for t in _tensors(result)]
        self._calls.append((func, args, kwargs or {}, fresh))  # type: ignore[arg-type]
        return result

    def _play(self, calls: list[Any]) -> None:
        self.played += 1
        for func, args, kwargs, fresh in calls:
            for old, new in zip(fresh, _tensors(func(*args, **kwargs)), strict=True):
                if old is not None:
                    old.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
