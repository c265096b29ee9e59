"""The tensors that a GPT's ``torch_dist`` checkpoint must hold, and those without a place in the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from launcher.checkpoints import claims
from launcher.checkpoints.base import Architecture
from launcher.checkpoints.parts import EXPERT, LAYER, of_a_layer, parameters, refuse_unplaced
from launcher.checkpoints.torch_dist.tensor_store import DTYPES, STACKED, TensorStore, spellings
from launcher.core.errors import CheckpointError

QUANTIZER = re.compile(r"_quantizer(\.|$)")
"""What ModelOpt keeps beside a weight that it quantises."""

EXPORT = "export it by ModelOpt's export to a Hugging Face folder, which is read"

HARMLESS = re.compile(
    r"_extra_state|^opt_param_scheduler|^rng_state|^rerun_state_machine|^iteration$"
    r"|rotary_pos_emb\.inv_freq$|^(module\.|model\.)?mtp\."
)
"""What no answer depends on: states of training and of fp8, frequencies that are computed, layers that only predict
further tokens."""


def check(store: TensorStore, a: Architecture) -> None:
    """Compare all that is stored with all that the model is made of.

    Raises `CheckpointError` for a tensor that is missing, a stack of another number of layers, and a tensor that no
    part of the model takes.
    """
    claims.check(a, store.numbers, store.folder)
    _refuse_quantizers(store)
    taken: set[str] = set()
    for name in _names(store, a):
        found = next((other for other in spellings(name) if other in store.tensors), None)
        if found is None:
            raise CheckpointError(f"{store.folder}: tensor '{name}' is missing (the model needs it)")
        taken.add(found)
        _refuse_numbers(store, found)
        if not store.layered and LAYER in name and store.tensors[found].shape[:1] != (a.num_layers,):
            shape = list(store.tensors[found].shape)
            raise CheckpointError(f"{store.folder}: '{found}' has shape {shape} (the model has {a.num_layers} layers)")
    refuse_unplaced((name for name in store.tensors if not HARMLESS.search(name)), taken, store.folder)


def _refuse_quantizers(store: TensorStore) -> None:
    """Refuse weights that ModelOpt quantises when it computes, in a line that names it."""
    name = next((name for name in store.tensors if QUANTIZER.search(name)), None)
    if name is not None:
        raise CheckpointError(f"{store.folder}: '{name:.200}' is a quantiser of ModelOpt (not read here; {EXPORT})")


def _refuse_numbers(store: TensorStore, name: str) -> None:
    """Refuse numbers that are no weights by themselves, such as those of fp8 without their scales."""
    found = store.tensors[name].dtype
    if found not in (*DTYPES, "float64"):
        what = f"'{name:.200}' is of type {found} (expected {', '.join(DTYPES)}"
        raise CheckpointError(f"{store.folder}: {what}; of a quantised model, {EXPORT})")


def _names(store: TensorStore, a: Architecture) -> Iterator[str]:
    """Yield the stored name of every parameter: layers have names of their own, or one for the stack of them all."""
    for module, kind in parameters(replace(a, num_layers=0)):
        yield f"{store.prefix}{module}.{kind}"
    inside = dict.fromkeys(f"{_stacked(module)}.{kind}" for module, kind in of_a_layer(a))
    for layer in range(a.num_layers) if store.layered else [None]:
        number = "" if layer is None else f"{layer}."
        yield from (f"{store.prefix}{LAYER}{number}{name}" for name in inside)


def _stacked(module: str) -> str:
    """Return the name that all experts of a layer share."""
    return re.sub(re.escape(EXPERT) + r"\d+\.", STACKED, module)
