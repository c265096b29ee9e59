"""Hydra's composition, done once for each point of a batch: the sweeper's check of it is what the launcher takes."""

# The underscore keeps Hydra from looking for plugins here.
from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext
from omegaconf import DictConfig


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let Python look for garbage seldom: a configuration is ten thousands of objects, nearly all of which stay.

    Looking at all of them again and again takes a third of the time, and more the more points there are.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class ComposedOnce:
    """Hydra's loader, which keeps what a sweeper composes to check its batch until `take` asks for it."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._checked: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose a point as Hydra does, for a sweeper that checks its batch."""
        with seldom_collected():
            found = self._loader.load_sweep_config(master_config, sweep_overrides)
        self._checked[tuple(sweep_overrides)] = found
        return found

    def take(self, master_config: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Return a point's configuration, which is the caller's from now on."""
        checked = self._checked.pop(tuple(overrides), None)
        return self._loader.load_sweep_config(master_config, list(overrides)) if checked is None else checked


def composed_once(context: HydraContext) -> ComposedOnce:
    """Put a `ComposedOnce` into the context that a launcher shares with its sweeper, and return it."""
    loader = ComposedOnce(context.config_loader)
    context.config_loader = loader  # type: ignore[assignment]  # Hydra asks for no more than its methods
    return loader
