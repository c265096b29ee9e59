"""The tensors that a GPT's ``torch_dist`` checkpoint must hold, and those without a place in the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from launcher.checkpoints import claims
from launcher.checkpoints.base import Architecture
from launcher.checkpoints.parts import EXPERT, LAYER, of_a_layer, parameters, refuse_unplaced, shape
from launcher.checkpoints.torch_dist.tensor_store import DTYPES, STACKED, TensorStore, spellings
from launcher.core.errors import CheckpointError

QUANTIZER = re.compile(r"_quantizer(\.|$)")
"""What ModelOpt keeps beside a weight that it quantises."""

PADDED = re.compile(r"(word_embeddings|output_layer)\.(weight|bias)$")
"""What each layout of ranks pads with rows of its own."""

EXPORT = "export it by ModelOpt's export to a Hugging Face folder, which is read"

HARMLESS = re.compile(
    r"_extra_state|^opt_param_scheduler|^rng_state|^rerun_state_machine|^iteration$"
    r"|rotary_pos_emb\.inv_freq$|^(module\.|model\.)?mtp\."
)
"""What no answer depends on: states of training and of fp8, frequencies that are computed, layers that only predict
further tokens."""


def check(store: TensorStore, a: Architecture) -> None:
    """Compare all that is stored with all that the model is made of.

    Raises `CheckpointError` for a tensor that is missing or of another shape, and for one that no part of the model
    takes.
    """
    claims.check(a, store.numbers, store.folder)
    _refuse_quantizers(store)
    taken: set[str] = set()
    for name, wanted in _needed(store, a):
        found = next((other for other in spellings(name) if other in store.tensors), None)
        if found is None:
            raise CheckpointError(f"{store.folder}: tensor '{name}' is missing (the model needs it)")
        taken.add(found)
        _refuse_numbers(store, found)
        _refuse_other_shape(store, found, wanted, a)
    refuse_unplaced((name for name in store.tensors if not HARMLESS.search(name)), taken, store.folder)


def _refuse_quantizers(store: TensorStore) -> None:
    """Refuse weights that ModelOpt quantises when it computes, in a line that names it."""
    name = next((name for name in store.tensors if QUANTIZER.search(name)), None)
    if name is not None:
        raise CheckpointError(f"{store.folder}: '{name:.200}' is a quantiser of ModelOpt (not read here; {EXPORT})")


def _refuse_other_shape(store: TensorStore, name: str, wanted: tuple[int, ...], a: Architecture) -> None:
    found = store.tensors[name].shape
    if not store.layered and LAYER in name and found[:1] != (a.num_layers,):
        raise CheckpointError(f"{store.folder}: '{name}' has shape {list(found)} (the model has {a.num_layers} layers)")
    if found != wanted and not (PADDED.search(name) and found[1:] == wanted[1:]):
        raise CheckpointError(
            f"{store.folder}: tensor '{name}' has shape {list(found)} (the model needs {list(wanted)})"
        )


def _refuse_numbers(store: TensorStore, name: str) -> None:
    """Refuse numbers that are no weights by themselves, such as those of fp8 without their scales."""
    found = store.tensors[name].dtype
    if found not in (*DTYPES, "float64"):
        what = f"'{name:.200}' is of type {found} (expected {', '.join(DTYPES)}"
        raise CheckpointError(f"{store.folder}: {what}; of a quantised model, {EXPORT})")


def _needed(store: TensorStore, a: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every stored tensor that the model needs.

    Layers have tensors of their own, or one for the stack of them all; experts of a layer are always stacked.
    """
    for module, kind in parameters(replace(a, num_layers=0)):
        yield f"{store.prefix}{module}.{kind}", shape(a, module, kind)
    inside = {f"{_stacked(module)}.{kind}": _stack(a, module, kind) for module, kind in of_a_layer(a)}
    for layer in range(a.num_layers) if store.layered else [None]:
        number, stack = ("", (a.num_layers,)) if layer is None else (f"{layer}.", ())
        yield from ((f"{store.prefix}{LAYER}{number}{name}", (*stack, *each)) for name, each in inside.items())


def _stack(a: Architecture, module: str, kind: str) -> tuple[int, ...]:
    """Return the shape of a layer's parameter, or of those of all its experts together."""
    one = shape(a, f"{LAYER}0.{module}", kind)
    return (a.num_experts, *one) if module.startswith(EXPERT) else one


def _stacked(module: str) -> str:
    """Return the name that all experts of a layer share."""
    return re.sub(re.escape(EXPERT) + r"\d+\.", STACKED, module)
