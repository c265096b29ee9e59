"""Turns the overrides and keywords of a Python call into the words of a command line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath

from launcher.core.errors import UserError

LISTS = ("tasks", "adapters")
"""Groups of which several options are chosen; a text names them, separated by commas."""
OWN_MODES = {
    "serve": "launcher.serve(...) serves",
    "proxy": "the command line runs a proxy: launcher mode=proxy",
    "plan": "launcher.plan(...) shows the plan",
    "watch": "the command line follows a training run, and launcher.load(folder) reads what it wrote",
    "status": "launcher.load(folder).status reads it",
    "cancel": "the command line cancels a job: launcher cancel <folder>",
}
"""The modes that `run` does not take, and what does their work."""


def words(overrides: Iterable[str], settings: Mapping[str, object]) -> list[str]:
    """Return the words that the shell would hand over. Raises `UserError` for a value that no setting can have.

    ``overrides`` are in Hydra's grammar. A keyword's value is what it is: a text needs no quotes. Two underscores in a
    keyword's name stand for a dot.
    """
    found = [_checked(word) for word in overrides]
    return found + [word for name, value in settings.items() for word in _setting(name.replace("__", "."), value)]


def check_mode(given: Iterable[str], flag: str) -> None:
    """Raise `UserError` for a mode that another function has, and for ``-m``, which `sweep` adds."""
    for word in given:
        mode = word.removeprefix("mode=") if word.startswith("mode=") else ""
        if mode in OWN_MODES:
            raise UserError(f"mode={mode}: {OWN_MODES[mode]}")
        if word in ("-m", "--multirun", "--help", "-h", "--version") or word.startswith(("--cfg", "-c")):
            raise UserError(f"{word}: launcher.{flag}() takes no such flag; launcher.sweep() sweeps")


def _checked(word: object) -> str:
    if not isinstance(word, str):
        raise UserError(f"{word!r}: an override is a text such as 'evaluate.limit=10'")
    return word


def _setting(name: str, value: object) -> Iterator[str]:
    from launcher.cli.commands.target import of_target
    from launcher.cli.options import groups

    if name == "model" and isinstance(value, str | PathLike):
        yield from of_target("model", fspath(value))
    elif name in LISTS and isinstance(value, str):
        yield f"{name}=[{value.strip().strip('[]')}]"
    elif isinstance(value, Mapping) and name in groups():
        for key, item in value.items():
            yield from _setting(f"{name}.{key}", item)
    else:
        yield f"{name}={_typed(name, value)}"


def _typed(name: str, value: object) -> str:
    """Write a value: the text of a path as a shell hands it over, anything else in Hydra's grammar."""
    from launcher.settings.overrides import is_text_key

    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, str) and is_text_key(name) and "," not in value and value.strip() == value != "":
        return value
    return _in_grammar(name, value)


def _in_grammar(name: str, value: object) -> str:
    from launcher.settings.overrides import quote_if_needed

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return "nan" if isinstance(value, float) and math.isnan(value) else str(value)
    if isinstance(value, str | PathLike):
        return quote_if_needed(fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_in_grammar(name, str(key))}:{_in_grammar(name, value[key])}" for key in value) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ",".join(_in_grammar(name, item) for item in value) + "]"
    raise UserError(f"{name}={value!r}: expected a text, a number, a truth value, None, a list, a mapping or a path")
