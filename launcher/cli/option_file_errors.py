"""Explains what is wrong in an option file of one's own, of which Hydra's message says too little."""

from __future__ import annotations

import re
from dataclasses import fields
from difflib import get_close_matches

from launcher.settings.component import COMPONENTS

BASES = {"Task": "tasks", "Adapter": "adapters"}
"""The types of the groups whose option files choose their own place."""
NO_PACKAGE = re.compile(rf"In 'schema/(\w+)/(\w+)': .*\w+ is not a subclass of (?:{'|'.join(BASES)})\b", re.DOTALL)
NO_HERE = re.compile(rf"In 'schema/(\w+)/(\w+)': .*Key 'schema' not in '(?:{'|'.join(BASES)})'", re.DOTALL)
NO_TYPE = re.compile(r"In '((?:tasks|adapters)/[\w/]+)': ValidationError raised while composing config:\s*(.*)")
FULL_KEY = re.compile(r"^\s*full_key: (\S+)$", re.MULTILINE)
NO_KEY = re.compile(r"In '(\w+)/([\w/]+)': .*Key '(\w+)' not in '(\w+)'", re.DOTALL)


def explain(said: str) -> str | None:
    """Return one line for a fault of an option file that Hydra's message shows; None for another message."""
    if found := NO_PACKAGE.search(said):
        group, kind = found.groups()
        first = f"# @package {group}.<name>"
        return f"{group}: an option file with /schema/{group}/{kind}@_here_ lacks its first line, '{first}'"
    if found := NO_HERE.search(said):
        group, kind = found.groups()
        return f"{group}: an option file includes /schema/{group}/{kind}; write /schema/{group}/{kind}@_here_"
    if (found := NO_KEY.search(said)) and found[1] != "schema":
        return _unknown_key(*found.groups())
    if found := NO_TYPE.search(said):
        return _wrong_value(said, *found.groups())
    return None


def _wrong_value(said: str, option: str, why: str) -> str:
    """Return one line for a value of a type that its key does not take."""
    if "is not a subclass of" in why:
        group = option.partition("/")[0]
        return f"{option}: its keys have no place; its first line is to be '# @package {group}.<name>'"
    key = f"{found[1]}: " if (found := FULL_KEY.search(said)) else ""
    return f"{option}: {key}{why.replace('AnyNode', 'one value')}{'; expected [a,b]' if 'ListConfig' in why else ''}"


def unknown_schema(group: str, kind: str) -> str:
    """Return one line for a schema that an option file includes, and that there is not."""
    known = kinds(group.removeprefix("schema/"))
    close = get_close_matches(kind, known, n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    return f"/{group}/{kind}: no such kind{guess}; an option file may include one of {', '.join(known)}"


def kinds(group: str) -> list[str]:
    """Return the kinds of components of a group."""
    return sorted(path.rpartition("/")[2] for path in COMPONENTS if path.rpartition("/")[0] == group)


def _unknown_key(group: str, option: str, key: str, type_name: str) -> str:
    if type_name in BASES:
        example = f"defaults: [/schema/{group}/<kind>@_here_]"
        return f"{group}/{option}: it includes no schema, so that it has no key '{key}'; it needs {example}"
    types = [made for made in COMPONENTS.values() if made.__name__ == type_name]
    known = [each.name for each in fields(types[0])] if types else []
    close = get_close_matches(key, known, n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    return f"{group}/{option}: no key '{key}'{guess}; expected one of {', '.join(known)}"
