"""NVIDIA's ModelOpt: FP8 weights with one scale for the weight or a row."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import section
from launcher.checkpoints.huggingface.quantization import scaled
from launcher.checkpoints.huggingface.quantization.weights import QuantizedWeight, Settings, Stored
from launcher.core.errors import CheckpointError

SCALED = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the weights of a folder as ModelOpt exports them (``hf_quant_config.json``)."""
    values = section(settings.values, "quantization", settings.file) or settings.values
    algorithm = values.get("quant_algo")
    if algorithm not in SCALED:
        raise CheckpointError(
            f"{settings.where}: quant_algo is {shown(algorithm)} ({', '.join(SCALED)} are dequantised here)"
        )
    yield from scaled.find(stored, settings)
