"""A GGUF file as llama.cpp reads it; its header is written by the package ``gguf``."""

from __future__ import annotations

import math
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.checkpoints import convert
from launcher.checkpoints.base import Architecture, NotComputed
from launcher.checkpoints.export import plan as planning
from launcher.checkpoints.export.format import Format, Parameters
from launcher.checkpoints.export.gguf_tokenizer import tokenizer_fields
from launcher.checkpoints.export.plan import Shape, Shard, Unit
from launcher.checkpoints.export.rope_factors import as_scaling, divisors
from launcher.checkpoints.export.transforms import Transform, normalized
from launcher.checkpoints.gguf.file import GGUFTensor
from launcher.checkpoints.gguf.layout import architecture_of, permute
from launcher.checkpoints.gguf.names import (
    OF_AN_EXPERT,
    ROUTER,
    SHARED_GATE,
    SUPPORTED,
    by_parts,
    is_joined,
    is_turned,
    names_of,
)
from launcher.checkpoints.gguf.rope_factors import FACTORED, FACTORS
from launcher.core.errors import CheckpointError
from launcher.core.tokenizer import Tokenizer
from launcher.core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.gguf"
ALIGNMENT = 32
BLOCK = 32
"""Numbers of a row that ``Q8_0`` scales together."""

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
TYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


class GGUFFile(Format):
    """``convert.format=gguf``: matrices in ``dtype``, or ``quantized`` where a row is whole blocks; the rest in F32.

    Raises `NotComputed` for a model that no architecture of llama.cpp's that is read here expresses.
    """

    def __init__(self, a: Architecture, dtype: str, quantized: bool, source: str) -> None:
        self._source, self.dtype, self._quantized = source, dtype, quantized
        self._known: dict[str, Json] | None = None
        self._architecture = _without_idle_window(as_scaling(a))
        self.model = _kind(self._architecture, source)
        self.transformed = Transform(a)  # type: ignore[method-assign]
        self._factors = _factors(self._architecture)
        if self._factors and self.model not in FACTORED:
            raise NotComputed(
                f"{source}: llama.cpp reads rotary factors of {', '.join(FACTORED)} only, not of {self.model} "
                "(expected convert.format=hf)"
            )
        self._names = names_of(self.model, bool(a.num_experts))
        units = _stacked(planning.units(self._architecture, self._names))
        self.shards = (Shard(FILE, tuple(units)),)
        self._check()

    def _check(self) -> None:
        """Raise `NotComputed` unless our reader takes the file for the same model."""
        infos = {i: GGUFTensor(i, shape[::-1], _type(kind), 0, 0) for i, shape, kind in self._stored() if i != FACTORS}
        scaling = self._architecture.rope_scaling if not self._factors else None
        wanted = _rounded(normalized(replace(self._architecture, rope_scaling=scaling, rope_factors=None)))
        try:
            read = _rounded(normalized(architecture_of(self._fields(), infos, Path(FILE))))
        except CheckpointError as error:
            raise NotComputed(f"{self._source}: GGUF cannot express it: {error}") from error
        missed = [
            f.name for f in fields(wanted) if f.name != "dtype" and getattr(read, f.name) != getattr(wanted, f.name)
        ]
        if missed:
            values = ", ".join(f"{name}={getattr(wanted, name)!r:.80}" for name in missed)
            raise NotComputed(
                f"{self._source}: GGUF's {self.model} cannot have {values} (written: {', '.join(SUPPORTED)})"
            )

    def dtype_of(self, unit: Unit) -> str:
        name, shape = unit.tensors[0]
        return "fp32" if self._quantized or self._stored_as(name, shape) == "F32" else self.dtype

    def _stored_as(self, name: str, shape: Shape) -> str:
        """Return llama.cpp's type of a tensor.

        Vectors, the choice of experts, and rows that are no whole blocks stay in full precision.
        """
        if len(shape) == 1 or ROUTER.search(name):
            return "F32"
        if self._quantized:
            return "F32" if shape[-1] % BLOCK else "Q8_0"
        return TYPES[self.dtype]

    def _stored(self) -> Iterator[tuple[str, Shape, str]]:
        """Yield name, shape and type of every tensor, in the order of the file, each expert's by itself."""
        if self._factors:
            yield FACTORS, (len(self._factors),), "F32"
        for unit in self.shards[0].units:
            for name, shape in unit.tensors:
                yield name, shape, self._stored_as(name, shape)

    def _tensors(self) -> Iterator[tuple[str, Shape, str]]:
        """Yield the tensors as the file has them: those of all experts are one."""
        for name, shape, kind in self._stored():
            expert = OF_AN_EXPERT.match(name)
            if expert is None:
                yield name, shape[1:] if SHARED_GATE.search(name) else shape, kind
            elif int(expert[2]) == 0:
                yield f"{expert[1]}.weight", (self._architecture.num_experts, *shape), kind

    @property
    def bytes_of_weights(self) -> int:
        return sum(_bytes(shape, kind) for _, shape, kind in self._stored())

    def _fields(self) -> dict[str, Json]:
        """Return what the file says of the model."""
        a, kind = self._architecture, self.model
        name = Path(self._source).name
        common: dict[str, Json] = {"general.architecture": kind, "general.name": name, "general.alignment": ALIGNMENT}
        main = "Q8_0" if self._quantized else TYPES[self.dtype]
        common |= {"general.file_type": FILE_TYPES[main], "general.quantization_version": 2}
        return common | {f"{kind}.{key}": value for key, value in _model_fields(a, bool(self._factors)).items()}

    def content(
        self, shard: Shard, parameters: Parameters, tokenizer: Tokenizer | None
    ) -> Iterator[bytes | memoryview]:
        yield _padded(self._header(self._fields() | self._vocabulary(tokenizer)))
        if self._factors:
            yield _padded(struct.pack(f"<{len(self._factors)}f", *self._factors))
        for unit, value in parameters:
            wanted = dict(unit.tensors)
            for name, part in convert.split(value, unit.module, unit.kind, self._architecture, self._names):
                if name in wanted:
                    content = self._bytes_of(name, part)
                    yield content if self._goes_on(name) else _padded(content, before=self._before(name, len(content)))

    def _goes_on(self, name: str) -> bool:
        """Whether a further expert's part of the same tensor follows."""
        expert = OF_AN_EXPERT.match(name)
        return expert is not None and int(expert[2]) < self._architecture.num_experts - 1

    def _before(self, name: str, length: int) -> int:
        """Return the bytes of a tensor that come before its last part."""
        return length * (self._architecture.num_experts - 1) if OF_AN_EXPERT.match(name) else 0

    def _bytes_of(self, name: str, part: Tensor) -> bytes:
        import torch
        from gguf import GGMLQuantizationType, quantize

        if is_turned(self.model, name):
            part = permute(part, self._architecture.kv_channels)
        if is_joined(name):
            part = by_parts(part, self._architecture.kv_channels)
        if self._stored_as(name, tuple(part.shape)) == "Q8_0":
            return bytes(quantize(part.float().contiguous().numpy(), GGMLQuantizationType.Q8_0).tobytes())
        return bytes(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())

    def _header(self, known: Mapping[str, Json]) -> bytes:
        """Return all that comes before the weights."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / FILE
            writer = _writer(file, self.model)
            for key, value in known.items():
                if key not in ("general.architecture", "general.alignment"):
                    _add(writer, key, value)
            for name, shape, kind in self._tensors():
                info = _type(kind)
                writer.add_tensor_info(name, shape, _any_dtype(), _bytes(shape, kind), raw_dtype=info)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            writer.close()
            return file.read_bytes()

    def small_files(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, bytes]]:
        """Yield nothing: all is in one file. Raises `CheckpointError` for a tokenizer that GGUF has no equal of."""
        self._vocabulary(tokenizer)
        return iter(())

    def _vocabulary(self, tokenizer: Tokenizer | None) -> dict[str, Json]:
        if tokenizer is None:
            return {}
        if self._known is None:
            self._known = tokenizer_fields(tokenizer, self._architecture.vocab_size, self._source)
        return self._known


def _kind(a: Architecture, source: str) -> str:
    """Return llama.cpp's architecture. Raises `NotComputed` where it would leave out a part of the model."""
    if a.sliding_window:
        raise NotComputed(
            f"{source}: llama.cpp reads no sliding_window ({a.sliding_window}) for {', '.join(SUPPORTED)} "
            "(expected convert.format=hf)"
        )
    if a.normalization == "LayerNorm":
        return "gptneox"
    if a.shared_expert_ffn_hidden_size:
        _refuse_other_shared(a, source)
        return "qwen2moe"
    if a.qk_norm:
        return "qwen3moe" if a.num_experts else "qwen3"
    if a.num_experts:
        return "llama"
    return "qwen2" if a.qkv_bias else "llama"


def _refuse_other_shared(a: Architecture, source: str) -> None:
    """Refuse a model with a shared expert that has other attention than llama.cpp's only one that is read here."""
    if a.qk_norm or not a.qkv_bias:
        raise NotComputed(
            f"{source}: llama.cpp's qwen2moe has biases of queries, keys and values, and no norms of them "
            "(expected convert.format=hf)"
        )


def _stacked(units: Iterable[Unit]) -> Iterator[Unit]:
    """Put the parameters of a layer's experts into the order of the tensors that hold them all.

    A parameter that becomes two tensors is read twice, so that one is in memory at a time.
    """
    waiting: dict[str, list[Unit]] = {}
    for unit in units:
        experts = [(found[1], each) for each in unit.tensors if (found := OF_AN_EXPERT.match(each[0]))]
        for stack, tensor in experts:
            waiting.setdefault(stack, []).append(replace(unit, tensors=(tensor,)))
        if not experts:
            yield from _taken(waiting)
            yield unit
    yield from _taken(waiting)


def _taken(waiting: dict[str, list[Unit]]) -> Iterator[Unit]:
    for stack in list(waiting):
        yield from waiting.pop(stack)


def _without_idle_window(a: Architecture) -> Architecture:
    """Leave out a window that no text is longer than."""
    idle = a.sliding_window is not None and a.sliding_window >= a.context_length
    return replace(a, sliding_window=None) if idle else a


def _factors(a: Architecture) -> tuple[float, ...]:
    """Return the divisors of the rotary frequencies, which is how GGUF keeps the scaling of Llama 3."""
    if a.rope_scaling and a.rope_scaling.get("rope_type") == "llama3":
        return tuple(divisors(a))
    return a.rope_factors or ()


def _model_fields(a: Architecture, factored: bool) -> dict[str, Json]:
    neox = a.normalization == "LayerNorm"
    found: dict[str, Json] = {
        "block_count": a.num_layers,
        "context_length": a.context_length,
        "embedding_length": a.hidden_size,
        "feed_forward_length": a.ffn_hidden_size,
        "attention.head_count": a.num_attention_heads,
        "attention.head_count_kv": a.num_query_groups,
        "attention.key_length": a.kv_channels,
        "attention.value_length": a.kv_channels,
        f"attention.layer_norm_{'' if neox else 'rms_'}epsilon": a.norm_epsilon,
        "rope.freq_base": a.rotary_base,
        "rope.dimension_count": int(a.kv_channels * a.rotary_percent),
        "vocab_size": a.vocab_size,
    }
    if neox:
        found |= {"use_parallel_residual": a.parallel_residual}
    if a.num_experts:
        width = a.expert_ffn_hidden_size or a.ffn_hidden_size
        found |= {"expert_count": a.num_experts, "expert_used_count": a.experts_per_token, "feed_forward_length": width}
    if a.num_experts and (a.qk_norm or a.shared_expert_ffn_hidden_size):
        found |= {"expert_feed_forward_length": a.expert_ffn_hidden_size or a.ffn_hidden_size}
    if a.shared_expert_ffn_hidden_size:
        found |= {"expert_shared_feed_forward_length": a.shared_expert_ffn_hidden_size}
    if a.rope_scaling and not factored:
        found |= {"rope.scaling.type": a.rope_scaling["rope_type"], "rope.scaling.factor": a.rope_scaling["factor"]}
    return found


def _rounded(a: Architecture) -> Architecture:
    """Return the model with its numbers as a file keeps them, in fp32, which is what engines compute with."""
    scaling = a.rope_scaling and {key: _fp32(x) if isinstance(x, float) else x for key, x in a.rope_scaling.items()}
    return replace(
        a,
        norm_epsilon=_fp32(a.norm_epsilon),
        rotary_base=_fp32(a.rotary_base),
        rope_scaling=scaling,
        zero_centered_gamma=False,
    )


def _fp32(value: float) -> float:
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


def _type(name: str) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[name]


def _any_dtype() -> Any:
    """Return a type that makes the writer take a shape as it is; the stored type is given beside it."""
    import numpy

    return numpy.dtype(numpy.float32)


def _bytes(shape: Shape, kind: str) -> int:
    from gguf.constants import GGML_QUANT_SIZES

    block, length = GGML_QUANT_SIZES[_type(kind)]
    return int(math.prod(shape) // block * length)


def _padded(content: bytes, before: int = 0) -> bytes:
    """Fill up to the next tensor's place; ``before`` counts the bytes of this one that are written."""
    return content + b"\0" * (-(before + len(content)) % ALIGNMENT)


def _writer(file: Path, kind: str) -> Any:
    """Return the package's writer, which also takes an empty list: a vocabulary of bytes has no merges."""
    from gguf import GGUFValueType, GGUFWriter

    class Writer(GGUFWriter):  # type: ignore[misc]
        def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
            if vtype is GGUFValueType.ARRAY and not val:
                return struct.pack("<IIQ", GGUFValueType.ARRAY, GGUFValueType.STRING, 0)
            return bytes(super()._pack_val(val, vtype, add_vtype, sub_type))

    return Writer(file, kind)


def _add(writer: Any, key: str, value: Any) -> None:
    from gguf import GGUFValueType

    kinds = ((bool, "BOOL"), (int, "UINT32"), (float, "FLOAT32"), (str, "STRING"), (list, "ARRAY"))
    writer.add_key_value(key, value, GGUFValueType[next(name for kind, name in kinds if isinstance(value, kind))])
