"""NVIDIA's ModelOpt: FP8 weights with one scale for the weight or a row, and NVFP4."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.checkpoints.bounded import shown
from launcher.checkpoints.fields import section
from launcher.checkpoints.huggingface.quantization import fp4, scaled
from launcher.checkpoints.huggingface.quantization.weights import QuantizedWeight, Settings, Stored
from launcher.core.errors import CheckpointError

SCALED = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
NVFP4 = ("NVFP4", "W4A16_NVFP4")


def find(stored: Stored, settings: Settings) -> Iterator[tuple[str, QuantizedWeight]]:
    """Yield the weights of a folder as ModelOpt exports them (``hf_quant_config.json``)."""
    values = section(settings.values, "quantization", settings.file) or settings.values
    algorithm = values.get("quant_algo")
    if algorithm not in (*SCALED, *NVFP4):
        raise CheckpointError(
            f"{settings.where}: quant_algo is {shown(algorithm)} ({', '.join((*SCALED, *NVFP4))} are dequantised here)"
        )
    if algorithm in SCALED:
        yield from scaled.find(stored, settings)
        return
    for module in stored.modules("weight_scale_2"):
        names = (f"{module}weight", f"{module}weight_scale", f"{module}weight_scale_2")
        stored.present(*names)
        yield names[0], fp4.nvfp4(stored, names, "multiplies")
