"""What the option files of tasks say of themselves, for ``launcher tasks``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ITEMS = re.compile(r" ?\((\d[\d,]*) ([^()]+)\)")
"""The number of items in the first line of an option file: ``(1,319 test problems)``."""
PACKAGE = re.compile(r"^package:(\w+)/")
LICENCE = re.compile(r"\(([^()]+)\)[^()]*$")
"""The licence in the line about the data."""
HARNESS = "harness"
"""The folder of the options that run another harness."""
KINDS = {
    "generation": "text",
    "multiple_choice": "likelihood",
    "code": "programs",
    "lm_eval": "lm-eval",
    "letter_choice": "chat",
    "perplexity": "likelihood",
    "continuation": "likelihood",
    "ifeval": "chat",
    "harness_inspect": "harness",
    "harness_lm_eval_cli": "harness",
    "harness_command": "harness",
}
"""How the tasks of a component are asked, in one word."""


@dataclass(frozen=True)
class TaskOption:
    """An option of the group ``tasks``: its name, and what the comments at the top of its file say.

    ``about`` is the first sentence, ``notes`` are the lines after it, ``data`` says where the items come from and under
    which licence. ``missing`` is the Python package of the items if that is not installed.
    """

    name: str
    about: str
    notes: tuple[str, ...]
    data: str
    kind: str
    items: str
    missing: str
    file: Path

    @property
    def licence(self) -> str:
        """The licence of the items, empty where none is said."""
        found = LICENCE.search(self.data)
        return found[1] if found else ""

    @property
    def is_demonstration(self) -> bool:
        """Whether its items are in the launcher's own package, or it only groups such tasks."""
        return not self.data


def options(folder: Path) -> Iterator[TaskOption]:
    """Yield the options in a folder of option files, by name, and after them those of other harnesses.

    Files that are no YAML are left out.
    """
    for file in [*sorted(folder.glob("*.yaml")), *sorted((folder / HARNESS).glob("*.yaml"))]:
        found = _read(file, f"{HARNESS}/{file.stem}" if file.parent != folder else file.stem)
        if found is not None:
            yield found


def _read(file: Path, name: str) -> TaskOption | None:
    import yaml

    text = file.read_text(encoding="utf-8")
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        return None
    comments = list(_comments(text))
    data = " ".join(line for line in comments if line.startswith("Data:")).removeprefix("Data:").strip()
    notes = [line for line in comments if not line.startswith("Data:")]
    about = notes[0] if notes else ""
    items = ITEMS.search(about)
    return TaskOption(
        name=name,
        about=about,
        notes=tuple(notes[1:]),
        data=data,
        kind=_kind(config),
        items=items[1] if items else "",
        missing=_missing(config),
        file=file,
    )


def _comments(text: str) -> Iterator[str]:
    """Yield the comments at the top of a file, without Hydra's header."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        said = line.removeprefix("#").strip()
        if said and not said.startswith("@"):
            yield said


def _kind(config: dict[str, Any]) -> str:
    defaults = config.get("defaults") or []
    schemas = [str(entry) for entry in defaults if "/schema/tasks/" in str(entry)]
    if not schemas:
        return "group"
    component = schemas[0].rpartition("/schema/tasks/")[2].partition("@")[0]
    return "chat" if config.get("chat") else KINDS.get(component, component)


def _missing(config: dict[str, Any]) -> str:
    """Return the package that has the items, if it is not installed."""
    found = PACKAGE.match(str(config.get("path", "")))
    return found[1] if found and importlib.util.find_spec(found[1]) is None else ""
