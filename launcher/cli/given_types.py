"""Refuses values that OmegaConf would turn into values of another type, or into another text, without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hydra.core.override_parser.types import ChoiceSweep, Override

from launcher.cli.setting_pages import type_at
from launcher.core.errors import UserError
from launcher.core.types import Json
from launcher.settings.overrides import CommandLine, key_of, split_sweep

JUDGE = "judge."
"""A judge has settings of its own by the keys of a run's."""


def check_types(line: CommandLine) -> None:
    """Refuse a truth value for a text, a number for a truth value, and a text that reads as another number.

    Raises `UserError`. OmegaConf makes ``True`` of ``true`` where a text is due, and true of -1. 0 and 1 stay truth
    values.
    """
    for override in line.overrides:
        written = str(override.input_line).partition("=")[2]
        given = () if override.is_delete() else _values(override, written)
        values = [each for each in given if not isinstance(each[0], str)]
        key = key_of(override)
        kind = (type_at(key) or type_at(key.removeprefix(JUDGE))) if values else ""
        for value, spelled in values:
            _check(key, kind, value, spelled)


def _check(key: str, kind: str, value: Json, written: str) -> None:
    one_kind = kind.removesuffix(" or null")
    if one_kind == "bool" and isinstance(value, int | float) and value not in (0, 1):
        raise UserError(f"{key}={written}: expected true or false")
    if one_kind == "str" and isinstance(value, bool | int | float) and str(value) != written.strip():
        raise UserError(f"{key}={written}: a text is due; quote it, so that it stays as it is: {_quoted(key, written)}")
    if one_kind == "list[str]" and isinstance(value, list):
        _check_entries({f"{key}[{place}]": each for place, each in enumerate(value)}, "[a,b]")
    elif one_kind == "dict[str, str]" and isinstance(value, dict):
        _check_entries({f"{key}.{name}": each for name, each in value.items()}, "{a: b}")


def _check_entries(entries: Mapping[str, Json], form: str) -> None:
    for place, value in entries.items():
        if isinstance(value, list | dict):
            raise UserError(f"{place}: a mapping or list; expected one value, such as in {form}")
        if isinstance(value, bool):
            raise UserError(f"{place}: a truth value; expected a text, such as in {form}")


def _quoted(key: str, written: str) -> str:
    return f"\"{key}='{written.strip()}'\""


def _values(override: Override, written: str) -> Iterator[tuple[Json, str]]:
    """Yield each value of an override as it is read and as it is written; a sweep has several, between commas."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        values = [getattr(each, "text", each) for each in value.list]
        parts = list(split_sweep(written))
        yield from zip(values, parts if len(parts) == len(values) else map(str, values), strict=True)
    else:
        yield value, written
