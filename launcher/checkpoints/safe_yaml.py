"""Read a checkpoint's YAML as plain data; an unknown tag gives its content, never an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from launcher.checkpoints.bounded import DEEPEST, QUOTED, read_bytes, shown
from launcher.core.errors import CheckpointError
from launcher.core.types import Json
from launcher.settings.model import Bounds

MOST_VALUES = 50_000
"""Values in a file, aliases written out; configurations have two thousand."""

LONGEST_NUMBER = 200
"""Characters of a number; building one takes time that grows with the square of its length."""

_Fastest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a wheel has the first, ten times as fast


class _PlainLoader(_Fastest):  # type: ignore[misc]
    """A safe loader that ignores tags instead of refusing them."""


def _plain(loader: _PlainLoader, _suffix: str, node: yaml.Node) -> Any:
    """Build the plain value under a tag such as ``!!python/object:...``."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


def _number(build: Callable[[_PlainLoader, yaml.Node], Any]) -> Callable[[_PlainLoader, yaml.Node], Any]:
    def built(loader: _PlainLoader, node: yaml.Node) -> Any:
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"a number of {len(node.value)} characters (expected at most {LONGEST_NUMBER})")
        return build(loader, node)

    return built


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _number(_PlainLoader.construct_yaml_int))
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _number(_PlainLoader.construct_yaml_float))
_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)
_PlainLoader.add_multi_constructor("!", _plain)


def read_yaml(file: Path, bounds: Bounds | None = None) -> dict[str, Json]:
    """Return the mapping in a YAML file; `CheckpointError` if it is missing, no YAML, no mapping, or out of bounds."""
    content = read_bytes(file, bounds or Bounds())
    try:
        text = content.decode("utf-8")
        _check_size(text, file)
        found = yaml.load(text, _PlainLoader)
    except CheckpointError:
        raise
    except Exception as error:  # dates, numbers and tags raise almost anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file}: not YAML: {reason[:QUOTED]}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: holds no mapping")
    return found


def _check_size(text: str, file: Path) -> None:
    """Count what the text becomes, aliases written out, before anything is built: a few lines may name billions."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, _Fastest):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise CheckpointError(f"{file}: alias {shown(event.anchor)} stands before or within what it names")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            total += 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            sizes.pop(event.anchor or "", None)  # from here on the name means what has not ended yet
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = total - before + 1
        if total > MOST_VALUES or len(open_) > DEEPEST:
            raise CheckpointError(
                f"{file}: more than {MOST_VALUES} values, or {DEEPEST} levels (expected the YAML of a configuration)"
            )
