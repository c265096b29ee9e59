"""Finds numbers that are NaN or infinite in weights: every answer that they take part in would be noise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from launcher.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def is_finite(value: Tensor) -> bool:
    """Tell whether all numbers are finite; a sum takes a fraction of the time that the weights took to be read."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def refuse_not_finite(weights: Iterable[tuple[str, Tensor]], source: object) -> None:
    """Raise `CheckpointError` for the first weight with a number that is NaN or infinite."""
    for name, value in weights:
        if not is_finite(value):
            count, kind = int((~value.isfinite()).sum()), str(value.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{source}: '{name:.200}' holds {count:,} numbers that are NaN or infinite in {kind}, of "
                f"{value.numel():,} (expected finite weights)"
            )
