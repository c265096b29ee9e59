"""The names of lm-eval's tasks, groups and tags, and the YAML files that define them.

lm-eval's own index parses every file, which takes 19 CPU-seconds. This one reads the few keys that it needs, and keeps
what it found of lm-eval's own files for its version.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from launcher.core.errors import StorageError, TaskError
from launcher.core.files import cache_folder, replace
from launcher.core.types import expanded

INSTALL = "pip install 'nemo-megatron-launcher[lm-eval]'"
SCHEMA_VERSION = 1
KEY = re.compile(r"^[\"']?(task|group|tag|include|class)[\"']?[ \t]*:(.*)$", re.M)
"""The top-level keys of a task's YAML file that say what it is."""
NEXT_KEY = re.compile(r"^[A-Za-z_\"']", re.M)
NAME = re.compile(r"\s*[\"']?([A-Za-z][\w./+-]*[A-Za-z_/+.-][\w./+-]*)[\"']?\s*")
"""A value that YAML reads as the text that it is."""
WORDS = {"true", "false", "null", "yes", "no", "on", "off"}
IGNORED = {"__pycache__", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class Index:
    """``tasks`` and ``groups`` map names to YAML files, ``tags`` map them to the names of their tasks."""

    tasks: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, list[str]] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [*self.tasks, *self.groups, *self.tags]

    def over(self, other: Index) -> Index:
        """Return both indices; a name that both have is this one's."""
        tags = {name: [*other.tags.get(name, ()), *found] for name, found in self.tags.items()}
        return Index({**other.tasks, **self.tasks}, {**other.groups, **self.groups}, {**other.tags, **tags})


def version() -> str:
    """Return the version of lm-eval. Raises `TaskError` if it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise TaskError(f"lm-eval is not installed; {INSTALL}") from None


def read(include_path: str = "") -> Index:
    """Return the index of lm-eval's tasks and of those in the folder ``include_path``, which come first.

    Raises `TaskError` if lm-eval is not installed, or if there is no such folder.
    """
    stock = _stock(version())
    return _local(include_path).over(stock) if include_path else stock


def find(name: str, include_path: str = "") -> str:
    """Return the YAML file of a task. Raises `TaskError` for another name, with what is like it."""
    found = read(include_path)
    if name in found.tasks:
        return found.tasks[name]
    if name in found.groups or name in found.tags:
        raise TaskError(f"task={name} is a group or a tag of lm-eval; tasks=[lm_eval/{name}] asks all of its tasks")
    like = " or ".join(get_close_matches(name, found.tasks, 3))
    hint = f"did you mean {like}?" if like else f"launcher tasks lm_eval lists its {len(found.tasks):,} tasks"
    raise TaskError(f"task={name}: lm-eval {version()} has no such task; {hint}")


def _local(include_path: str) -> Index:
    folder = expanded(include_path)
    if not folder.is_dir():
        raise TaskError(f"lm_eval.include_path={include_path} is not a folder; it must hold YAML files of tasks")
    return scan(folder)


@lru_cache(maxsize=1)
def _stock(of_version: str) -> Index:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "tasks"
    file = cache_folder() / f"lm_eval-{of_version}.json"
    found = _cached(file, folder)
    if found is None:
        found = scan(folder)
        kept = {"schema_version": SCHEMA_VERSION, "folder": str(folder), "index": asdict(found)}
        with suppress(StorageError):  # a folder that cannot be written costs time, and nothing else
            replace(file, json.dumps(kept), durable=False)
    return found


def _cached(file: Path, folder: Path) -> Index | None:
    """Return what the file keeps for this installation of lm-eval; None if that is nothing."""
    try:
        kept = json.loads(file.read_bytes())
        if kept["schema_version"] != SCHEMA_VERSION or kept["folder"] != str(folder):
            return None
        return Index(**kept["index"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def scan(folder: Path) -> Index:
    """Return the index of a folder as `lm_eval.tasks._index.TaskIndex.build` makes it.

    Of several files with one name the first counts.
    """
    tasks: dict[str, str] = {}
    groups: dict[str, str] = {}
    tags: dict[str, list[str]] = {}
    known: set[str] = set()
    for path in _files(folder):
        keys = _keys(path)
        is_group = isinstance(keys.get("group"), str) and "class" not in keys
        name = keys.get("group" if is_group else "task")
        if not isinstance(name, str) or name in known:
            continue
        known.add(name)
        (groups if is_group else tasks)[name] = str(path)
        for tag in [] if is_group else _tags(keys):
            known.add(tag)
            tags.setdefault(tag, []).append(name)
    return Index(
        tasks, groups, {tag: members for tag, members in tags.items() if tag not in tasks and tag not in groups}
    )


def _tags(keys: Mapping[str, Any]) -> list[str]:
    tag = keys.get("tag")
    return [tag] if isinstance(tag, str) else list(tag) if isinstance(tag, list) else []


def _files(folder: Path) -> Iterator[Path]:
    found = (path for path in folder.glob("**/*.yaml") if not IGNORED.intersection(path.parts))
    yield from sorted(found, key=lambda path: path.as_posix())


@lru_cache(maxsize=4096)
def _keys(path: Path, depth: int = 0) -> Mapping[str, Any]:
    """Return the top-level keys of `KEY` that a file has, those of the files that it includes too."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if text.lstrip().startswith("{"):
        return _flow(text)
    found: dict[str, Any] = {}
    for match in KEY.finditer(text):
        following = NEXT_KEY.search(text, match.end())
        block = text[match.start() : following.start() if following else len(text)]
        name = NAME.fullmatch(block, match.start(2) - match.start())
        if name and name[1].lower() not in WORDS:
            found[match[1]] = name[1]
            continue
        try:
            found.update(yaml.load(block, Loader=yaml_loader()))
        except yaml.YAMLError:
            continue
    includes = found.get("include")
    for other in [includes] if isinstance(includes, str) else includes if isinstance(includes, list) else []:
        if depth < 20 and isinstance(other, str):
            found = {**_keys(Path(os.path.normpath(path.parent / other)), depth + 1), **found}
    return found


def _flow(text: str) -> Mapping[str, Any]:
    """Return the keys of a file that is one mapping in braces, for instance JSON."""
    import yaml

    try:
        found = yaml.load(text, Loader=yaml_loader())
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=1)
def yaml_loader() -> Any:
    """Return a YAML loader that reads lm-eval's ``!function`` as text."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))
    return Loader
