"""Pages about a config group, one of its options, or one key: what ``launcher help`` and its relatives print."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache

from launcher.cli.hints import for_option
from launcher.cli.options import groups, option_file, options_of
from launcher.cli.setting_help import Setting, about, settings_of
from launcher.core.console import terminal_width
from launcher.core.errors import UserError
from launcher.pipeline.config import Run
from launcher.settings.component import COMPONENTS

SCHEMA = re.compile(r"/schema/(?P<path>[\w/]+)@")
RUN = "run"
"""The name under which the keys without a group are listed."""
LISTS = ("adapters", "tasks")
"""Groups that take a list of options; their keys have the option's name in between."""


def is_group(word: str) -> bool:
    """Tell whether a word names a group of settings."""
    return word in names()


def names() -> list[str]:
    """Return the names of all groups of settings."""
    return [*(group for group in groups() if "/" not in group), RUN]


def page(group: str, option: str = "") -> str:
    """Return the page of a group: its options, and its keys if all options share them; or that of one option.

    Raises `UserError` for a name that does not exist.
    """
    if group == RUN:
        return "\n".join(_keys(Run, "", own_only=True))
    if option:
        return "\n".join(_option_page(group, option))
    options = options_of(group)
    if len(options) == 1:
        return "\n".join(_option_page(group, *options))
    schemas = {_schema(group, each) for each in options} - {""}
    if len(schemas) == 1:
        return "\n".join([*listing(group), "", *_keys(COMPONENTS[schemas.pop()], f"{group}.")])
    return "\n".join([*listing(group), "", f"launcher help {group} OPTION describes one with its keys."])


def listing(group: str) -> Iterator[str]:
    """Yield a line for each option of a group: its name, and the first sentence about it."""
    options = options_of(group)
    width = max(map(len, options), default=0)
    for option in options:
        yield from _wrapped(f"  {option:<{width}}  ", _about(group, option), width + 4)


def key_page(key: str) -> str:
    """Return what one key takes and means, all keys below it, or the page of the option that the word names.

    Raises `UserError` for a word that is none of these.
    """
    known = _all_keys()
    if key not in known and (inner := keys_below(key)):
        return "\n".join(line for each in inner for line in _row(known[each], each))
    if key not in known and (holders := [group for group in names() if key in options_of(group)]):
        return _page_of_option(key, holders)
    if key not in known:
        close = difflib.get_close_matches(key, names(), n=1, cutoff=0.8)
        close = close or difflib.get_close_matches(key, known, n=3, cutoff=0.6)
        guess = f" (did you mean {', '.join(close)}?)" if close else ""
        raise UserError(f"help {key}: no such command, group or key{guess}; launcher --help lists commands and groups")
    return "\n".join(_row(known[key], key))


def _page_of_option(option: str, holders: list[str]) -> str:
    """Return the page of an option, or of several groups that have one of this name, a line for each."""
    if len(holders) == 1:
        return "\n".join(_option_page(holders[0], option))
    commands = {group: f"  launcher help {group}/{option}" for group in holders}
    width = max(map(len, commands.values())) + 2
    lines = [_wrapped(line.ljust(width), _about(group, option), width) for group, line in commands.items()]
    return "\n".join([f"{option} is an option of several groups:", "", *(line for each in lines for line in each)])


def keys_below(key: str) -> list[str]:
    """Return the keys of the settings that a mapping such as ``evaluate.budget`` has."""
    return [each for each in _all_keys() if each.startswith(f"{key}.")]


def type_at(key: str) -> str:
    """Return what the key takes, as its page says it; empty for an unknown one."""
    found = (setting.type for full_key, setting in _keyed(key) if full_key == key)
    return next(found, "")


def _all_keys() -> Mapping[str, Setting]:
    """Return the settings of all components by their keys on the command line; of several, the first."""
    found: dict[str, Setting] = {}
    for key, setting in _keyed():
        found.setdefault(key, setting)
    return found


def _keyed(wanted: str | None = None) -> Iterator[tuple[str, Setting]]:
    """Yield the settings of all components with their keys; with ``wanted``, only of those that may have this key."""
    for prefix, cls in (("", Run), *_prefixed()):
        if wanted is None or wanted.startswith(prefix):
            yield from ((f"{prefix}{setting.key}", setting) for setting in _settings(cls))


def _prefixed() -> Iterator[tuple[str, type]]:
    for path, cls in sorted(COMPONENTS.items()):
        group, name = path.rsplit("/", 1)
        yield f"{group}.{name}." if group in LISTS else f"{group}.", cls


@cache
def _settings(cls: type) -> tuple[Setting, ...]:
    return tuple(settings_of(cls))


def _option_page(group: str, option: str) -> Iterator[str]:
    known = options_of(group)
    if option not in known:
        close = difflib.get_close_matches(option, known, n=1)
        guess = f" (did you mean {close[0]}?)" if close else ""
        hint = f"; there is {meant}" if (meant := for_option(group, option)) else ""
        raise UserError(f"{group} has no option {option}{guess}{hint}; expected one of {', '.join(known)}")
    prefix = f"{group}.{option}." if group in LISTS else f"{group}."
    chosen = f"'{group}=[{option}]'" if group in LISTS else f"{group}={option}"
    cls = COMPONENTS.get(_schema(group, option))
    if len(known) > 1 or cls is None:
        yield f"{group}/{option}: {_about(group, option)}"
        yield f"\n  launcher {chosen} chooses it; its file is {option_file(group, option)}\n"
    if cls is not None:
        yield from (f"{textwrap.fill(each, terminal_width())}\n" for each in _paragraphs(cls))
        yield from _keys(cls, prefix)


def _paragraphs(cls: type) -> Iterator[str]:
    for paragraph in (cls.__doc__ or "").split("\n\n"):
        yield " ".join(paragraph.split()).replace("``", "`")


def _keys(cls: type, prefix: str, *, own_only: bool = False) -> Iterator[str]:
    for setting in settings_of(cls):
        if not (own_only and ("." in setting.key or setting.key in groups())):
            yield from _row(setting, f"{prefix}{setting.key}")


def _row(setting: Setting, key: str) -> Iterator[str]:
    limit = f", {setting.range}" if setting.range else ""
    default = setting.default if setting.default == "required" else f"default {setting.default}"
    yield f"  {key}   {setting.type}{limit}; {default}"
    if setting.meaning:
        yield from _wrapped("      ", setting.meaning, 6)


def _wrapped(first: str, text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text or "-", terminal_width(), initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def _about(group: str, option: str) -> str:
    """Return what the comments at the top of an option's file say, or the first sentence about its component."""
    lines = option_file(group, option).read_text(encoding="utf-8").splitlines()
    said = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    comment = " ".join(line for line in said if line and not line.startswith("@"))
    cls = COMPONENTS.get(_schema(group, option))
    return comment or (about(cls) if cls else "")


def _schema(group: str, option: str) -> str:
    """Return the component of an option, ``<group>/<name>``; empty for one that only chooses others."""
    found = SCHEMA.search(option_file(group, option).read_text(encoding="utf-8"))
    return found["path"] if found else ""
