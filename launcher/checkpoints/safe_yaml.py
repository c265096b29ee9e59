"""Reads a checkpoint's YAML as plain data: an unknown tag gives its content and never an object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from launcher.core import Json
from launcher.errors import CheckpointError

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


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)
_PlainLoader.add_multi_constructor("!", _plain)


def read_yaml(file: Path) -> dict[str, Json]:
    """Return the mapping in a YAML file; `CheckpointError` if it is missing, no YAML or no mapping."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise CheckpointError(f"{file}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds no mapping")
    return content
