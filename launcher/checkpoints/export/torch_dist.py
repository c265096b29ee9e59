"""A distributed checkpoint of megatron-core: what its own writer makes of a whole model, tensor by tensor.

torch's own classes make up the index, so ``dist_checkpointing.load`` reads the files at any layout of ranks.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from launcher.checkpoints import parts
from launcher.checkpoints.base import Architecture
from launcher.checkpoints.export import plan as planning
from launcher.checkpoints.export.format import GB, Format, Parameters
from launcher.checkpoints.export.megatron import TORCH, configuration, is_llama3
from launcher.checkpoints.export.plan import Shape, Shard, Unit
from launcher.checkpoints.megatron_bridge import CONFIG
from launcher.checkpoints.torch_dist.tensor_store import place, spellings
from launcher.checkpoints.torch_dist.writer import METADATA
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STATELESS = ("self_attention.linear_qkv", "self_attention.core_attention", "self_attention.linear_proj")
"""Modules of a layer that a reader expects a state of fp8 of, which is empty here; the MLP's are two more."""

STATES = "__0_0.distcp"
"""The file of the empty states; those of the weights have the numbers from 1."""


class TorchDistFolder(Format):
    """``convert.format=torch_dist``, and the weights of ``nemo2``.

    ``within`` is the folder of the weights, and ``prefix`` goes before the model's own names.
    """

    within = ""
    prefix = ""
    common: Mapping[str, Json] = {"checkpoint_version": 3.0, "iteration": 0}

    def __init__(self, a: Architecture, dtype: str, shard_gb: float, source: str) -> None:
        self._architecture, self._source, self.dtype = a, source, dtype
        self.config = configuration(a, dtype, source)
        self.model = "megatron-core GPT"
        units = [self._unit(module, kind) for module, kind in parts.parameters(a)]
        self.shards = tuple(planning.shards(units, dtype, int(shard_gb * GB), self._name))

    def _name(self, number: int, count: int) -> str:
        return f"{self.within}__0_{number}.distcp"

    def _unit(self, module: str, kind: str) -> Unit:
        name, index = self._place(module, kind)
        return Unit(module, kind, ((name, (*(1,) * len(index), *parts.shape(self._architecture, module, kind))),))

    def _place(self, module: str, kind: str) -> tuple[str, Shape]:
        """Return the stored name, with the norms where TransformerEngine fuses them, and the index in the stack."""
        name, index = place(module, kind)
        before_experts = self._architecture.num_experts and "pre_mlp_layernorm" in name
        return self.prefix + (name if before_experts else list(spellings(name))[-1]), index

    @property
    def bytes_of_weights(self) -> int:
        return sum(unit.numbers for shard in self.shards for unit in shard.units) * planning.BYTES[self.dtype]

    def content(
        self, shard: Shard, parameters: Parameters, tokenizer: Tokenizer | None
    ) -> Iterator[bytes | memoryview]:
        for unit, value in parameters:
            ((name, shape),) = unit.tensors
            made = _archive(value.reshape(shape))
            if len(made) != self._length(shape):
                raise CheckpointError(f"{self._source}: {name} takes {len(made)} bytes, not {self._length(shape)}")
            yield made

    def _length(self, shape: Shape) -> int:
        """Return how many bytes a stored tensor takes, so that the index is known before a weight is read."""
        if shape not in self._lengths:
            self._lengths[shape] = _archived_length(shape, TORCH[self.dtype])
        return self._lengths[shape]

    @cached_property
    def _lengths(self) -> dict[Shape, int]:
        return {}

    def small_files(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
        yield from self._weights_index()
        for name, text in tokenizer_files(tokenizer):
            yield f"tokenizer/{name}", text
        yield CONFIG, yaml.safe_dump(self._run_config(tokenizer)).encode()

    def _weights_index(self) -> Iterator[tuple[str, bytes]]:
        """Yield what describes the weights, and the empty states."""
        yield self.within + STATES, b"".join([bytes(_archive([None]))] * len(list(self._states())))
        yield f"{self.within}common.pt", bytes(_archive(dict(self.common)))
        yield f"{self.within}.metadata", pickle.dumps(self._metadata(), protocol=4)
        yield f"{self.within}metadata.json", json.dumps(METADATA).encode()

    def _run_config(self, tokenizer: Tokenizer | None) -> dict[str, Json]:
        llama = is_llama3(self.config)
        kind = "models.llama.llama_provider.Llama31ModelProvider" if llama else "models.gpt_provider.GPTModelProvider"
        found: dict[str, Json] = {"model": {"_target_": f"megatron.bridge.{kind}", **self.config}}
        if tokenizer is not None:
            found["tokenizer"] = {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": "tokenizer"}
        return found

    def _states(self) -> Iterator[str]:
        """Yield the names of the empty states, one for each layer, and for each expert."""
        a = self._architecture
        shared = (f"{parts.SHARED}.linear_fc1", f"{parts.SHARED}.linear_fc2") * bool(a.shared_expert_ffn_hidden_size)
        for layer in range(a.num_layers):
            for module in (*STATELESS, *(() if a.num_experts else ("mlp.linear_fc1", "mlp.linear_fc2")), *shared):
                yield f"{self.prefix}decoder.layers.{module}._extra_state/shard_{layer}_{a.num_layers}"
            for expert in range(a.num_experts):
                for module in ("linear_fc1", "linear_fc2"):
                    where = f"shard_{layer}.{expert}_{a.num_layers}.{a.num_experts}"
                    yield f"{self.prefix}decoder.layers.mlp.experts.experts.{module}._extra_state/{where}"

    def _metadata(self) -> Any:
        """Return the index: every tensor with its parts, and where the bytes of each are."""
        from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

        found, places = self._tensors()
        length = len(_archive([None]))
        for number, name in enumerate(self._states()):
            found[name] = BytesStorageMetadata()
            places[MetadataIndex(name)] = _stored(STATES, number * length, length)
        return Metadata(state_dict_metadata=found, planner_data={name: (name,) for name in found}, storage_data=places)

    def _tensors(self) -> tuple[dict[str, Any], dict[Any, Any]]:
        import torch
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata

        found: dict[str, Any] = {}
        places: dict[Any, Any] = {}
        for name, offsets, shape, file, start in self._pieces():
            whole = found.setdefault(name, TensorStorageMetadata(_properties(self.dtype), torch.Size(()), []))
            whole.size = torch.Size(
                max(a, b + n) for a, b, n in zip(whole.size or offsets, offsets, shape, strict=True)
            )
            where = torch.Size(offsets)
            whole.chunks.append(ChunkStorageMetadata(where, torch.Size(shape)))
            places[MetadataIndex(name, where)] = _stored(file, start, self._length(shape))
        return found, places

    def _pieces(self) -> Iterator[tuple[str, Shape, Shape, str, int]]:
        """Yield name, place in the whole tensor, shape, file and first byte of every stored piece."""
        for shard in self.shards:
            start = 0
            for unit in shard.units:
                ((name, shape),) = unit.tensors
                _, index = self._place(unit.module, unit.kind)
                yield (
                    name,
                    (*index, *(0,) * (len(shape) - len(index))),
                    shape,
                    shard.name.removeprefix(self.within),
                    start,
                )
                start += self._length(shape)


def tokenizer_files(tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
    """Yield a tokenizer's files, and all tokens that end an answer: its own files name one."""
    if tokenizer is None:
        return
    yield from tokenizer.files().items()
    if len(tokenizer.eos_ids) > 1:
        yield "generation_config.json", json.dumps({"eos_token_id": sorted(tokenizer.eos_ids)}).encode()


def _stored(file: str, start: int, length: int) -> Any:
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    return _StorageInfo(file, start, length)


def _properties(dtype: str) -> Any:
    import torch
    from torch.distributed.checkpoint.metadata import TensorProperties

    return TensorProperties(dtype=getattr(torch, TORCH[dtype]))


def _archive(value: Any) -> memoryview:
    """Return what ``torch.save`` makes of a value, which is how every stored piece is kept."""
    import torch

    stream = io.BytesIO()
    torch.save(value.clone() if isinstance(value, torch.Tensor) and _is_part(value) else value, stream)
    return stream.getbuffer()


def _is_part(value: Tensor) -> bool:
    """Tell whether a tensor is a view of more numbers, which ``torch.save`` would write along."""
    return not value.is_contiguous() or value.untyped_storage().nbytes() != value.numel() * value.element_size()


class _Counter:
    """A stream that counts."""

    def __init__(self) -> None:
        self.length = 0

    def write(self, content: bytes) -> int:
        self.length += len(content)
        return len(content)

    def flush(self) -> None: ...


def _archived_length(shape: Shape, dtype: str) -> int:
    """Return the length of a stored tensor of this shape: numbers do not change it. No memory is touched."""
    import torch

    counter = _Counter()
    kind: torch.dtype = getattr(torch, dtype)
    empty = torch.empty(math.prod(shape), dtype=kind).reshape(shape)
    torch.save(empty, counter)  # type: ignore[arg-type]
    return counter.length
