"""Convert weights with Hugging Face's or GGUF's names and shapes into this rank's part of a Megatron model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.checkpoints.base import Architecture, Damaged
from launcher.checkpoints.parts import EXPERT, LAYER, QKV, parameters, refuse_unplaced, shape
from launcher.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

Read = Callable[[str], "Tensor"]
"""Returns a whole stored tensor by its stored name; raises `KeyError` if there is none."""


Wholes = Callable[[str, str], "tuple[list[Tensor], str]"]
"""Returns the whole tensors that a parameter of Megatron's is joined of, by module and kind, and their description."""


@dataclass(frozen=True)
class Names:
    """Where the weights of each Megatron module are stored, by the module's name.

    ``layer`` goes before the names of ``layers``, with ``{layer}`` in it, and names of experts hold ``{expert}``. A
    module made of several stored ones has them all, in the order in which Megatron joins them: query, key, value; gate,
    up. ``suffixes`` renames the end of a name.
    """

    roots: Mapping[str, str]
    layer: str
    layers: Mapping[str, tuple[str, ...]]
    suffixes: Mapping[str, str] = field(default_factory=dict)


def check(stored: Mapping[str, tuple[int, ...]], architecture: Architecture, names: Names, source: str) -> None:
    """Compare the shapes of all stored tensors that an answer may depend on with what the whole model is made of.

    Raises `Damaged` for one that is missing, for one of another shape, and for one that no part of the model takes.
    """
    taken: set[str] = set()
    for module, kind in parameters(architecture):
        for name, wanted in split_shapes(module, kind, architecture, names):
            if name not in stored:
                raise _missing(name, source)
            if stored[name] != wanted:
                raise Damaged(
                    f"{source}: tensor '{name}' has shape {list(stored[name])} (the model needs {list(wanted)})"
                )
            taken.add(name)
    refuse_unplaced(stored, taken, source)


def load_into(model: nn.Module, architecture: Architecture, names: Names, read: Read, source: str) -> None:
    """Fill every parameter of this rank's model from whole tensors, one at a time.

    Raises `CheckpointError` naming ``source`` and the tensor that is missing or has another shape.
    """
    fill(model, architecture, lambda module, kind: _wholes(module, kind, architecture, names, read, source))


def fill(model: nn.Module, architecture: Architecture, wholes: Wholes) -> None:
    """Fill every parameter of this rank's model; ``wholes`` gives what each is joined of. Raises `CheckpointError`."""
    for name, parameter in model.named_parameters():
        module, kind = global_name(model, name, architecture).rsplit(".", 1)
        found, what = wholes(module, kind)
        parameter.data.copy_(_own_part(found, parameter, _share(model, name), what))


def parameter(module: str, kind: str, architecture: Architecture, names: Names, read: Read, source: str) -> Tensor:
    """Return one whole parameter as Megatron keeps it. Raises `CheckpointError` as `load_into` does."""
    import torch

    wholes, what = _wholes(module, kind, architecture, names, read, source)
    value = torch.cat(wholes) if len(wholes) > 1 else wholes[0]
    if tuple(value.shape) != (wanted := shape(architecture, module, kind)):
        raise CheckpointError(f"{what} has shape {list(value.shape)} (the model needs {list(wanted)})")
    return value


def _wholes(
    module: str, kind: str, architecture: Architecture, names: Names, read: Read, source: str
) -> tuple[list[Tensor], str]:
    """Return the stored tensors that a parameter is made of, query, key and value as one, and their description."""
    stored = stored_names(module, kind, names)
    wholes = [_read(read, entry, source) for entry in stored]
    what = f"{source}: {' + '.join(stored)}"
    if module.endswith(QKV) and len(wholes) > 1:
        wholes = [_interleave(wholes, architecture, what)]
    return wholes, what


def split(value: Tensor, module: str, kind: str, architecture: Architecture, names: Names) -> list[tuple[str, Tensor]]:
    """Return the tensors, by their stored names, that a whole parameter of Megatron's is stored as."""
    stored = stored_names(module, kind, names)
    if len(stored) == 1:
        return [(stored[0], value)]
    parts = _separate(value, architecture) if module.endswith(QKV) else list(value.chunk(len(stored)))
    return list(zip(stored, parts, strict=True))


def split_shapes(module: str, kind: str, architecture: Architecture, names: Names) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of what `split` returns."""
    rows, *rest = shape(architecture, module, kind)
    stored = stored_names(module, kind, names)
    sizes = [rows // len(stored)] * len(stored)
    if module.endswith(QKV) and len(stored) > 1:
        keys = architecture.num_query_groups * architecture.kv_channels
        sizes = [architecture.num_attention_heads * architecture.kv_channels, keys, keys]
    return [(name, (size, *rest)) for name, size in zip(stored, sizes, strict=True)]


def _separate(value: Tensor, architecture: Architecture) -> list[Tensor]:
    """Take query, key and value apart, which `_interleave` puts together."""
    rest = value.shape[1:]
    groups = value.reshape(architecture.num_query_groups, -1, architecture.kv_channels, *rest)
    parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
    return [part.reshape(-1, *rest) for part in parts]


def named_globally(model: nn.Module, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of this rank's part by the names that they have in the whole model."""
    for name, parameter in model.named_parameters():
        yield global_name(model, name, architecture), parameter.data


def global_name(model: Any, name: str, architecture: Architecture) -> str:
    """Return a parameter's name in the whole model: with the numbers of all stages' layers and all ranks' experts."""
    if name.startswith(LAYER):
        number, rest = name.removeprefix(LAYER).split(".", 1)
        if rest.startswith(EXPERT):
            expert, tail = rest.removeprefix(EXPERT).split(".", 1)
            rest = f"{EXPERT}{int(expert) + _first_expert(architecture)}.{tail}"
        return f"{LAYER}{model.decoder.layers[int(number)].layer_number - 1}.{rest}"
    return "embedding.word_embeddings.weight" if name == "output_layer.weight" and architecture.tied else name


def _first_expert(architecture: Architecture) -> int:
    from megatron.core import parallel_state

    ranks = parallel_state.get_expert_model_parallel_world_size()
    return int(parallel_state.get_expert_model_parallel_rank() * (architecture.num_experts // ranks))


def stored_names(module: str, kind: str, names: Names) -> list[str]:
    """Return the names of the tensors that a parameter is stored as, in the order in which Megatron joins them."""
    kind = names.suffixes.get(kind, kind)
    if not module.startswith(LAYER):
        return [f"{_lookup(names.roots, module)}.{kind}"]
    layer, part = module.removeprefix(LAYER).split(".", 1)
    expert = ""
    if part.startswith(EXPERT):
        expert, tail = part.removeprefix(EXPERT).split(".", 1)
        part = f"{EXPERT}{{expert}}.{tail}"
    before = names.layer.format(layer=layer)
    return [f"{before}{entry.format(expert=expert)}.{kind}" for entry in _lookup(names.layers, part)]


def _lookup(table: Mapping[str, Any], module: str) -> Any:
    try:
        return table[module]
    except KeyError:
        raise CheckpointError(f"the model has a module '{module}' that this layout does not know") from None


def _read(read: Read, name: str, source: str) -> Tensor:
    try:
        return read(name)
    except KeyError:
        raise _missing(name, source) from None


def _missing(name: str, source: str) -> CheckpointError:
    return Damaged(f"{source}: tensor '{name}' is missing (the model needs it)")


@dataclass(frozen=True)
class Share:
    """Which part of a whole tensor a rank has: the ``rank``-th of ``size`` along ``axis`` (None: all of it)."""

    axis: int | None
    rank: int
    size: int


def _own_part(wholes: list[Tensor], parameter: Any, share: Share, what: str) -> Tensor:
    """Return this rank's part of a parameter: every joined tensor is cut by itself, then they are put together."""
    import torch

    parts = [_cut(whole, share, what) for whole in wholes]
    value = torch.cat(parts) if len(parts) > 1 else parts[0]
    if value.shape != parameter.shape:
        shapes = " + ".join(str(list(whole.shape)) for whole in wholes)
        raise CheckpointError(f"{what} has shape {shapes} (this rank needs {list(parameter.shape)} of it)")
    return value


def _interleave(wholes: list[Tensor], architecture: Architecture, what: str) -> Tensor:
    """Put query, key and value together as Megatron does: for every group its queries, its key, its value."""
    import torch

    groups, channels = architecture.num_query_groups, architecture.kv_channels
    try:
        grouped = [whole.reshape(groups, -1, channels, *whole.shape[1:]) for whole in wholes]
        return torch.cat(grouped, dim=1).reshape(-1, *wholes[0].shape[1:])
    except RuntimeError as error:
        raise CheckpointError(f"{what} do not fit {groups} groups of {channels} channels: {error}") from error


def _share(model: nn.Module, name: str) -> Share:
    """Return this rank's share of a parameter.

    The axis follows from the class of the parameter's module. Megatron's own marks on a parameter are set only by its
    initialisers. A model that is loaded does not run them.
    """
    from megatron.core import parallel_state as state
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding

    path, _, kind = name.rpartition(".")
    module, axis = model.get_submodule(path), None
    if isinstance(module, (ColumnParallelLinear, VocabParallelEmbedding)):
        axis = 0
    elif isinstance(module, RowParallelLinear) and kind == "weight":
        axis = 1
    if EXPERT in name:
        return Share(axis, state.get_expert_tensor_parallel_rank(), state.get_expert_tensor_parallel_world_size())
    return Share(axis, state.get_tensor_model_parallel_rank(), state.get_tensor_model_parallel_world_size())


def _cut(whole: Tensor, share: Share, what: str) -> Tensor:
    """Return a rank's slice of a tensor."""
    if share.size == 1 or share.axis is None:
        return whole
    if whole.ndim <= share.axis or whole.shape[share.axis] % share.size:
        raise CheckpointError(
            f"{what} has shape {list(whole.shape)}, which {share.size} tensor-parallel ranks cannot share"
        )
    return whole.chunk(share.size, dim=share.axis)[share.rank]
