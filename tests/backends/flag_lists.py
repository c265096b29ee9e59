"""The flags of servers as ``.ci/server_flags.py`` has read them, and what is wrong with a command by such a list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("flags")
PARSERS: Mapping[str, Callable[[str], object]] = {"int": int, "float": float}


@dataclass(frozen=True)
class FlagList:
    """The options of one version of a server, and the variables of its environment."""

    server: str
    version: str
    source: str
    options: Mapping[str, Mapping[str, Any]]
    environment: frozenset[str]
    vllm: tuple[str, ...] = ()

    def problems(self, words: Sequence[str]) -> Iterator[str]:
        """Yield what this version of the server would refuse: an unknown flag, a value too many, too few, or wrong."""
        rest = list(words)
        while rest:
            flag = rest.pop(0)
            about = self.options.get(flag)
            if about is None:
                yield f"{self.server} {self.version} has no {flag}"
                continue
            values = [rest.pop(0) for _ in range(_values(about["takes"], rest))]
            yield from self._of_values(flag, about, values)

    def _of_values(self, flag: str, about: Mapping[str, Any], values: Sequence[str]) -> Iterator[str]:
        if about["takes"] == "one" and len(values) != 1:
            yield f"{self.server} {self.version}: {flag} takes a value"
        for value in values:
            if value not in about.get("choices", [value]):
                yield f"{self.server} {self.version}: {flag} {value} is not one of {about['choices']}"
            try:
                PARSERS.get(about.get("type", ""), str)(value)
            except ValueError:
                yield f"{self.server} {self.version}: {flag} {value} is no {about['type']}"


def _values(takes: str, rest: Sequence[str]) -> int:
    """Return how many of the next words are values of a flag; a negative number is one."""
    most = {"flag": 0, "one": 1, "optional": 1}.get(takes, len(rest))
    is_flag = [word.startswith("-") and not word[1:].replace(".", "").isdigit() for word in rest]
    return min(most, is_flag.index(True) if True in is_flag else len(rest))


def lists_of(server: str) -> list[FlagList]:
    """Return the lists of a server, one for each version."""
    return [_read(file) for file in sorted(FOLDER.glob(f"{server}-*.json"))]


def _read(file: Path) -> FlagList:
    found = json.loads(file.read_text())
    return FlagList(
        found["server"],
        found["version"],
        found["source"],
        found["options"],
        frozenset(found["environment"]),
        tuple(found.get("vllm", ())),
    )
