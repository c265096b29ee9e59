"""A plain forward pass in the next wider floating point type, from the same weights and without a copy of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
"""The type in which a pass is repeated to measure the rounding error of the narrower one."""

LOOKUPS = {torch.ops.aten.embedding.default, torch.ops.aten.index_select.default}
"""Operations that only copy: their result is widened, not their table."""

# torch says once that it leaves its fused kernel. That is intended: the plain one widens the weight.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)


@contextmanager
def upcast(narrow: torch.dtype) -> Iterator[None]:
    """Compute in the next wider type what a model of type ``narrow`` computes in this thread.

    Each operation widens its own inputs, so that only one widened weight is in memory at a time. Inference mode is off
    inside: megatron-core's autograd functions cannot run under it and a dispatch mode together.
    """
    with torch.inference_mode(False), torch.no_grad(), _Upcast(narrow):
        yield


class _Upcast(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, narrow: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._narrow = narrow
        self._wide = WIDER[narrow]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in LOOKUPS:
            return self._widen(function(*args, **(kwargs or {})))
        if function._schema.is_mutable and args and self._is_narrow(args[0]):
            raise NotImplementedError(f"{function} writes into a tensor of type {self._narrow}")
        return function(*tree_map(self._widen, list(args)), **tree_map(self._widen, dict(kwargs or {})))

    def _widen(self, value: Any) -> Any:
        if self._is_narrow(value):
            return (value.to_dense() if value.is_mkldnn else value).to(self._wide)
        return self._wide if value is self._narrow else value

    def _is_narrow(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype is self._narrow
