"""The rotary factors of a GGUF file, read like llama.cpp (``llama-model.cpp``, ``ggml_rope_ext``)."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from launcher.checkpoints.base import NotComputed
from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import positive
from launcher.checkpoints.gguf.file import GGUFTensor
from launcher.core.errors import CheckpointError
from launcher.core.types import Json

FACTORS = "rope_freqs.weight"
"""The divisors of the rotary frequencies: what the converter makes of Hugging Face's ``rope_type: llama3``."""

FACTORED = ("llama",)
"""The architectures whose factors llama.cpp reads; in a file of another one they may only be 1."""


def scaling_type(fields: Mapping[str, Json], kind: str) -> Json:
    """Return the scaling's name, which is ``linear`` where a file has a factor and no name."""
    factor = fields.get(f"{kind}.rope.scaling.factor")
    return fields.get(f"{kind}.rope.scaling.type", "linear" if factor else "none")


def scaling(fields: Mapping[str, Json], kind: str, path: Path) -> dict[str, Json] | None:
    """Return Hugging Face's dictionary of the scaling. Raises `NotComputed` for one other than ``linear``."""
    name = scaling_type(fields, kind)
    if name == "none":
        return None
    if name != "linear":
        raise NotComputed(f"{path}: {kind}.rope.scaling.type is {shown(name)} (supported: none, linear)")
    return {"rope_type": "linear", "factor": positive(fields, f"{kind}.rope.scaling.factor", path, math.nan)}


def factors(tensors: Mapping[str, GGUFTensor], kind: str, rotated: int, path: Path) -> tuple[float, ...] | None:
    """Return the divisor of each frequency of ``rotated`` channels, or None where the file has none.

    Raises `CheckpointError` for ones of another length or type, and for one that is not finite and positive.
    """
    if FACTORS not in tensors:
        return None
    tensor, what = tensors[FACTORS], f"{path}: tensor {shown(FACTORS)}"
    if tensor.shape != (rotated // 2,):
        raise CheckpointError(f"{what} has shape {list(tensor.shape)} (expected [{rotated // 2}], one per frequency)")
    if tensor.tensor_type.name != "F32":
        raise CheckpointError(f"{what} is of type {tensor.tensor_type.name} (expected F32)")
    found: tuple[float, ...] = struct.unpack(f"<{rotated // 2}f", tensor.read(path).tobytes())
    wrong = next((factor for factor in found if not 0 < factor < math.inf), None)
    if wrong is not None:
        raise CheckpointError(f"{what} holds {wrong} (expected finite positive numbers)")
    if kind not in FACTORED and not tensor.is_neutral(path):
        raise NotComputed(f"{what} is set (expected it in a file of {' or '.join(FACTORED)}, not of {kind})")
    return found
