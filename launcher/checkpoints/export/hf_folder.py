"""A Hugging Face folder of safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from launcher.checkpoints import convert
from launcher.checkpoints.base import Architecture, NotComputed
from launcher.checkpoints.export import plan as planning
from launcher.checkpoints.export.format import GB, Format, Parameters
from launcher.checkpoints.export.huggingface import target, with_tokens
from launcher.checkpoints.export.plan import Shard, Unit
from launcher.checkpoints.export.safetensors_file import content, header
from launcher.checkpoints.export.transforms import Transform
from launcher.checkpoints.huggingface.safetensors_index import INDEX
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor


class HuggingFaceFolder(Format):
    """``convert.format=hf``. Raises `NotComputed` for a model that no class of Hugging Face expresses."""

    def __init__(self, a: Architecture, dtype: str, shard_gb: float, source: str) -> None:
        if a.zero_centered_gamma and dtype != "fp32":
            raise NotComputed(
                f"{source}: its norms are stored as the distance from 1, and {dtype} would round 1 + weight; "
                "expected convert.dtype=fp32"
            )
        self._architecture, self._source, self.dtype = a, source, dtype
        self._target = target(a, dtype, source)
        self.transformed = Transform(a)  # type: ignore[method-assign]
        self.model = str(self._target.config["model_type"])
        units = planning.units(a, self._target.names)
        self.shards = tuple(planning.shards(units, dtype, int(shard_gb * GB)))

    @property
    def bytes_of_weights(self) -> int:
        return sum(unit.numbers for shard in self.shards for unit in shard.units) * planning.BYTES[self.dtype]

    def content(
        self, shard: Shard, parameters: Parameters, tokenizer: Tokenizer | None
    ) -> Iterator[bytes | memoryview]:
        tensors = [tensor for unit in shard.units for tensor in unit.tensors]
        parts = (part for unit, value in parameters for part in self._cut(unit, value))
        yield from content(header(tensors, self.dtype), parts)

    def _cut(self, unit: Unit, value: Tensor) -> Iterator[Tensor]:
        parts = convert.split(value, unit.module, unit.kind, self._architecture, self._target.names)
        for (name, tensor), (promised, shape) in zip(parts, unit.tensors, strict=True):
            if (name, tuple(tensor.shape)) != (promised, shape):
                raise CheckpointError(
                    f"{self._source}: {name} has shape {list(tensor.shape)} (the model needs {list(shape)})"
                )
            yield tensor

    def small_files(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
        if tokenizer is not None:
            yield from tokenizer.files().items()
        if len(self.shards) > 1:
            yield INDEX, _json(self._index())
        config = with_tokens(self._target.config, tokenizer)
        tokens = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None}
        yield "generation_config.json", _json(tokens)
        yield "config.json", _json(config)

    def _index(self) -> dict[str, Json]:
        places = {name: shard.name for shard in self.shards for unit in shard.units for name, _ in unit.tensors}
        return {"metadata": {"total_size": self.bytes_of_weights}, "weight_map": places}


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
