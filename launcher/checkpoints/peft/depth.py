"""Compares the weights that an adapter changes with those of its base model, by name, layer and shape."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from launcher.checkpoints.peft.changes import Adapter
from launcher.core.errors import CheckpointError

LAYER = re.compile(r"\.(\d+)\.")


def refuse_other_weights(adapter: Adapter, stored: Mapping[str, tuple[int, ...]], source: Path, plain: bool) -> None:
    """Raise `CheckpointError` for a change of a weight that is not stored, or that has another shape there.

    ``plain`` says that the model calls its weights as they are stored. Of other models only a layer beyond the last
    one is known to be missing; the rest is known once the model is loaded.
    """
    kinds = {LAYER.sub(".*.", name, count=1) for name in stored}
    for name, change in adapter.changes.items():
        shape = stored.get(name)
        what = ""
        if shape is None:
            known = plain or LAYER.sub(".*.", name, count=1) in kinds
            if known and LAYER.search(name) and not change.is_optional(name):
                what = f"which {source} lacks"
        elif not any(_fits(change.shape, axes) for axes in (shape, shape[::-1])):  # GPT-2's are stored the other way
            what = f"of shape {list(change.shape)}; {source} has {list(shape)}"
        if what:
            raise CheckpointError(
                f"model.peft={adapter.folder}: an adapter of another model (its base: {adapter.base:.99}): it changes "
                f"'{name:.200}'{'' if shape else ','} {what}"
            )


def _fits(change: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Compare shapes; an axis of 0 stands for any."""
    return len(change) == len(shape) and all(not x or x == y for x, y in zip(change, shape, strict=True))


def refuse_skipped_layers(adapter: Adapter, names: Iterable[str], source: Path) -> None:
    """Raise `CheckpointError` for an adapter that changes a weight in some layers only, and is meant for all.

    It lacks tensors, or its base has fewer layers; neither is seen from shapes. ``names`` are the model's weights.
    """
    if not adapter.every_layer:
        return
    layers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        layers[LAYER.sub(".*.", name, count=1)].append(name)
    for name in adapter.changes:
        found = layers.get(kind := LAYER.sub(".*.", name, count=1), [])
        skipped = [place for place in found if place not in adapter.changes]
        if skipped:
            raise CheckpointError(
                f"model.peft={adapter.folder}: it changes '{kind:.200}' in {len(found) - len(skipped)} of the "
                f"{len(found)} layers of {source}, and its target_modules are of all layers (expected its own base, "
                f"and every tensor of the adapter; '{skipped[0]:.200}' has none)"
            )
