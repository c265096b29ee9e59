"""Print the version of each package that the extras need, as lines of a constraints file.

Usage: ``python .ci/constraints.py EXTRA ... > constraints.txt``, in the environment that holds those extras. It follows
the requirements of the project, so other packages of the environment stay out. A local version is left out too, since
no index offers it: of torch, `install.py` chooses the build.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "nemo-megatron-launcher"


def pins(extras: Iterable[str]) -> list[str]:
    """Return a line for each package that the project needs with these extras, directly or not."""
    names = {name for name, _ in needed(f"{PROJECT}[{','.join(extras)}]")} - {PROJECT}
    versions = {name: importlib.metadata.version(name) for name in names}
    return [f"{name}=={version}" for name, version in sorted(versions.items()) if "+" not in version]


def needed(requirement: str) -> set[tuple[str, frozenset[str]]]:
    """Return every installed package in the requirements of a package, with the extras that are asked of it."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(requirement)]
    while waiting:
        asked = waiting.pop()
        package = (canonicalize_name(asked.name), frozenset(asked.extras))
        if package not in found and _installed(asked.name):
            found.add(package)
            waiting += _requirements(asked)
    return found


def _requirements(asked: Requirement) -> Iterator[Requirement]:
    """Yield the requirements that hold on this platform with the extras that are asked for."""
    for line in importlib.metadata.requires(asked.name) or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in asked.extras or {""}):
            yield one


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    print("\n".join(pins(sys.argv[1:])))
