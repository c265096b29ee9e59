"""``@component("backend/inline")`` turns a class into a dataclass that is its own Hydra schema."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from hydra.core.config_store import ConfigStore

T = TypeVar("T")

COMPONENTS: dict[str, type] = {}
"""Every registered component by its path, ``<group>/<name>``."""


@dataclass_transform()
def component(path: str) -> Callable[[type[T]], type[T]]:
    """Register a class as the schema of one option.

    ``path`` is ``<group>/<name>``, for instance ``backend/inline``. The class becomes a dataclass whose fields are the
    option's keys, stored as ``schema/<path>``; a YAML file of the group includes it with
    ``defaults: [/schema/<path>@_here_]``. ``OmegaConf.to_object`` then returns an instance of the class itself.
    """

    def register(cls: type[T]) -> type[T]:
        made = dataclass(cls)
        group, name = path.rsplit("/", 1)
        ConfigStore.instance().store(group=f"schema/{group}", name=name, node=made)
        COMPONENTS[path] = made
        return made

    return register


def name_of(thing: object) -> str:
    """Return the option name of a component instance: ``inline`` for ``backend/inline``."""
    for path, cls in COMPONENTS.items():
        if cls is type(thing):
            return path.rsplit("/", 1)[1]
    raise LookupError(f"{type(thing).__qualname__} is not a registered component")
