"""Composes a run once: Hydra composes it twice, the first time only to read ``hydra.mode``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import DictConfig

_mode_of = Hydra.get_mode


@contextmanager
def composed_once(*, swept: bool) -> Iterator[None]:
    """Let Hydra take the first composition of a run for the run; those of a sweep (``swept``: ``-m``) differ."""
    hydra: Any = Hydra
    hydra.get_mode = _mode_of if swept else _get_mode
    try:
        yield
    finally:
        hydra.get_mode = _mode_of


def _get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    """Return ``hydra.mode``, as `Hydra.get_mode` does; the run gets the composition that it was read from."""
    try:
        config = hydra.compose_config(config_name=config_name, overrides=overrides, run_mode=RunMode.RUN)
    except Exception:  # the values of a sweep are no run, and an option file may ask for a sweep
        if (mode := _mode_of(hydra, config_name, overrides)) is None:
            raise
        return RunMode(mode)
    if config.hydra.mode is not None:
        return RunMode(config.hydra.mode)
    _keep(hydra, config)
    return None


def _keep(hydra: Hydra, config: DictConfig) -> None:
    """Hand ``config`` to the next that loads a configuration, with the mode that Hydra then adds."""
    config.hydra.mode = RunMode.RUN
    config.hydra.overrides.hydra.append("hydra.mode=RUN")
    loader = vars(hydra.config_loader)

    def load_configuration(**_: object) -> DictConfig:
        del loader["load_configuration"]
        return config

    loader["load_configuration"] = load_configuration
