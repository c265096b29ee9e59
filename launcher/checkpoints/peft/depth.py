"""Compares the layers that an adapter changes with those of its base model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from launcher.checkpoints.peft.changes import Adapter
from launcher.core.errors import CheckpointError

LAYER = re.compile(r"\.(\d+)\.")


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
