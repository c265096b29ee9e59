"""``@component("backend/inline")`` turns a class into a dataclass that is its own Hydra schema."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar, dataclass_transform

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from launcher.core.errors import UserError
from launcher.core.ranges import ranges

T = TypeVar("T")

COMPONENTS: dict[str, type] = {}
"""Every registered component by its path, ``<group>/<name>``."""


class ComponentExists(UserError):
    """A component has the path of another one."""


@dataclass_transform()
def component(path: str) -> Callable[[type[T]], type[T]]:
    """Register a class as the schema of one option.

    ``path`` is ``<group>/<name>``, for instance ``backend/inline``. The class becomes a dataclass whose fields are the
    option's keys, stored as ``schema/<path>``; a YAML file of the group includes it with
    ``defaults: [/schema/<path>@_here_]``. ``OmegaConf.to_object`` then returns an instance of the class itself.
    A number that is not finite, or out of the range of its field, is refused.
    Raises `ComponentExists` for a path that another module has registered.
    """

    def register(cls: type[T]) -> type[T]:
        if (known := COMPONENTS.get(path)) and known.__module__ != cls.__module__:
            raise ComponentExists(f"component {path} of {cls.__module__} has the name of one of {known.__module__}")
        group, name = path.rsplit("/", 1)
        made = dataclass(_checked(cls, f"adapters.{name}" if group == "adapters" else group))
        ConfigStore.instance().store(group=f"schema/{group}", name=name, node=made)
        COMPONENTS[path] = made
        return made

    return register


def _checked(cls: type[T], group: str) -> type[T]:
    """Let a class refuse settings out of their ranges, before its own checks."""
    own = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_numbers(self, group)
        if own:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return cls


def check_numbers(settings: Any, key: str) -> None:
    """Raise `UserError` for a number in a dataclass that is not finite, or not in the range of its field's type."""
    limits = ranges(type(settings))
    for name, value in vars(settings).items():
        check_finite(value, f"{key}.{name}")
        if name in limits:
            limits[name].check(f"{key}.{name}", value)
        if key.startswith("adapters.") and isinstance(value, list) and "" in value:
            raise UserError(f"{key}.{name} has an empty entry; leave it out, or give a text")
        if is_dataclass(value):
            check_numbers(value, f"{key}.{name}")


def check_finite(value: Any, key: str) -> None:
    """Raise `UserError` for a number within ``value`` that is infinite or not a number: no bound can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} is {value}; must be a finite number")
    for name, inner in value.items() if isinstance(value, dict) else ():
        check_finite(inner, f"{key}.{name}")
    for inner in value if isinstance(value, list) else ():
        check_finite(inner, key)


def plain_settings(settings: Any) -> Any:
    """Return a dataclass of settings as plain data, for `restored` in another process."""
    return OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)


def restored(cls: type[T], plain: Any) -> T:
    """Return settings from plain data, typed and checked as those of a configuration."""
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), plain))
    assert isinstance(found, cls)
    return found


def name_of(thing: object) -> str:
    """Return the option name of a component instance: ``inline`` for ``backend/inline``."""
    for path, cls in COMPONENTS.items():
        if cls is type(thing):
            return path.rsplit("/", 1)[1]
    raise LookupError(f"{type(thing).__qualname__} is not a registered component")
