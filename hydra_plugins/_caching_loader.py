"""Hydra's config loader, with a cache: the launcher takes what the sweeper composed to check its batch."""

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
def relaxed_gc() -> Iterator[None]:
    """Raise the thresholds of the garbage collector: composing allocates tens of thousands of long-lived objects.

    With the default thresholds, collections take a third of the time, and more the more points there are.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class CachingConfigLoader:
    """Hydra's loader, which caches what a sweeper composes to check its batch until `take` asks for it."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._cached: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose a point as Hydra does, for a sweeper that checks its batch."""
        with relaxed_gc():
            found = self._loader.load_sweep_config(master_config, sweep_overrides)
        self._cached[tuple(sweep_overrides)] = found
        return found

    def take(self, master_config: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Return a point's configuration, which is the caller's from now on."""
        cached = self._cached.pop(tuple(overrides), None)
        return self._loader.load_sweep_config(master_config, list(overrides)) if cached is None else cached


def caching_loader(context: HydraContext) -> CachingConfigLoader:
    """Put a `CachingConfigLoader` into the context that a launcher shares with its sweeper, and return it."""
    loader = CachingConfigLoader(context.config_loader)
    context.config_loader = loader  # type: ignore[assignment]  # Hydra asks for no more than its methods
    return loader
