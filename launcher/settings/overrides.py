"""The command line as one value, with the text of path keys quoted for Hydra's grammar."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NoReturn, Self

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from launcher.core import credentials
from launcher.core.credentials import shown
from launcher.core.errors import UserError
from launcher.core.types import Json, expanded

FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
"""Hydra's flags; a long one may be shortened."""

ALONE = ("run", "multirun", "cfg", "info", "shell_completion")
"""Flags of which Hydra takes one."""

TEXT = frozenset(
    {
        *("path", "folder", "dir", "subdir", "workdir", "workspace", "file", "checkpoint", "output", "tokenizer"),
        *("image", "url", "command", "host", "address"),
    }
)
"""Keys whose last word is one of these hold one text, which Hydra's grammar must not take apart."""

FOLDERS = frozenset({"resume", "run"})
"""Keys without a group that hold a folder; they are never swept over."""

FUNCTION = re.compile(r"\s*(choice|range|interval|glob|sort|shuffle|tag|str|int|float|bool)\(.*\)\s*", re.DOTALL)
"""A function of Hydra's grammar, which stays what it is."""

ELEMENT = re.compile(
    r"""(\s*'(?:\\.|[^'\\])*'\s*|\s*"(?:\\.|[^"\\])*"\s*|(?:\\.|\$\{[^}]*\}|[^,])*)(?:,|$)""", re.DOTALL
)
"""One value of a sweep: a quoted text, or what stands before the next comma outside of an interpolation."""


class NoSetting(UserError):
    """A word of the command line that sets nothing."""

    def __init__(self, problem: str, word: str) -> None:
        super().__init__(problem)
        self.word = word


@dataclass(frozen=True)
class CommandLine:
    """Hydra's flags by name, and its overrides in the order given; a change makes another one."""

    flags: Mapping[str, str | bool] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        """Read what a shell hands over; flags and settings may stand in any order.

        A folder of option files becomes an absolute path. Raises `UserError`, also for a secret that is given as a
        value, and Hydra's `OverrideParseException`.
        """
        check_flags(arguments)
        found = vars(_parser().parse_intermixed_args(list(arguments)))
        words = found.pop("overrides")
        _check_flags_together(found, words)
        flags = {name: value for name, value in found.items() if value not in (None, False)}
        if "config_dir" in flags:
            flags["config_dir"] = str(expanded(str(flags["config_dir"])).absolute())
        return cls(flags, tuple(_override(word, "multirun" in flags) for word in words))

    @classmethod
    def of(cls, overrides: Iterable[str]) -> Self:
        """Read overrides as Hydra stores them."""
        return cls().added(overrides)

    @property
    def arguments(self) -> list[str]:
        """What Hydra reads: flags first, since it does not know settings on both sides of one."""
        return [*self._flag_words(), *self.texts]

    @property
    def texts(self) -> list[str]:
        """The overrides as Hydra stores them."""
        return [str(override.input_line) for override in self.overrides]

    @property
    def keys(self) -> set[str]:
        """The keys that are set, added or removed, without their operators."""
        return {key_of(override) for override in self.overrides}

    def get(self, key: str) -> Json:
        """Return the value that is given last for ``key``, a sweep as Hydra's own object; None without one."""
        found = [override for override in self.overrides if key_of(override) == key]
        return found[-1].value() if found else None

    def added(self, overrides: Iterable[str]) -> Self:
        """Append overrides in Hydra's grammar. Raises `OverrideParseException`."""
        return replace(self, overrides=(*self.overrides, *_grammar().parse_overrides(list(overrides))))

    def with_(self, key: str, value: str | bool | None) -> Self:
        """Append one setting; its value may have any characters."""
        plain = {None: "null", True: "true", False: "false"}
        return self.added([f"{key}={quote_if_needed(value) if isinstance(value, str) else plain[value]}"])

    def without(self, drops: Callable[[str], bool]) -> Self:
        """Leave out the overrides for whose key ``drops`` is true."""
        return replace(self, overrides=tuple(one for one in self.overrides if not drops(key_of(one))))

    def flagged(self, **flags: str | bool) -> Self:
        """Add flags."""
        return replace(self, flags={**self.flags, **flags})

    def _flag_words(self) -> Iterator[str]:
        for name, value in self.flags.items():
            flag = f"--{name.replace('_', '-')}"
            yield flag if value is True else f"{flag}={value}"


def _override(word: str, sweeps: bool) -> Override:
    name, _, value = word.lstrip("+~").partition("=")
    credentials.check_name(name)
    try:
        found = _grammar().parse_overrides([in_grammar(word, sweeps)])[0]
    except (HydraException, UserError):
        credentials.check_word(name, value)  # before anything repeats it
        raise
    credentials.check(name, _values_of(found))
    return found


def _values_of(override: Override) -> Json:
    """Return the value, or those that it is swept over."""
    value = override.value()
    swept = value.list if isinstance(value, ChoiceSweep) else value
    return [getattr(one, "text", one) for one in swept] if isinstance(swept, list) else swept


def key_of(override: Override) -> str:
    """Return the key, or the group with its package, without operators."""
    return override.get_key_element().lstrip("+~")


def check_flags(arguments: Sequence[str]) -> None:
    """Raise `UserError` for a flag that Hydra does not know: most likely a setting with dashes before it."""
    for argument in arguments:
        flag = argument.split("=", 1)[0]
        joined = not flag.startswith("--") and flag[:2] in FLAGS
        if flag.startswith("-") and not joined and not any(known.startswith(flag) for known in FLAGS):
            raise UserError(
                f"{flag}: no such flag; expected one of -m, --help, --version, --cfg job, --info, --config-dir; "
                f"a setting has no dashes: {_as_setting(flag)}"
            )


def _check_flags_together(flags: Mapping[str, object], words: Sequence[str]) -> None:
    """Raise `UserError` for flags that mean nothing, or fail within Hydra, without another one."""
    for flag in ("resolve", "package"):
        if flags[flag] and not flags["cfg"]:
            raise UserError(f"--{flag}: it needs --cfg job, which prints the configuration")
    if flags["config_path"] or flags["config_name"]:
        flag = "--config-name" if flags["config_name"] else "--config-path"
        raise UserError(f"{flag}: the launcher has one configuration; --config-dir=<folder> adds option files to it")
    if flags["shell_completion"] and not any(word.startswith(("install=", "uninstall=", "query=")) for word in words):
        raise UserError("--shell-completion: expected install=bash or install=fish behind it")
    if len(given := [flag for flag in ALONE if flags[flag]]) > 1:
        raise UserError(f"{' '.join(f'--{flag}' for flag in given)}: only one of these can be given")


def _as_setting(flag: str) -> str:
    """Return how a setting is written that was given as a flag; its value may be a secret, and is not repeated."""
    name = flag.lstrip("-")
    return f"{name}=<value>" if re.fullmatch(r"[a-z]\w*(?:\.\w+)*", name, re.ASCII) else "key=value"


def in_grammar(word: str, sweeps: bool) -> str:
    """Return one word of the command line in Hydra's grammar.

    In a sweep a comma separates values unless it is quoted; else it belongs to the path. ``~`` is the home folder.
    Raises `UserError` for several paths without a sweep, and for what is no setting.
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if equals and not name.strip("~"):
        raise UserError(f"{shown(word)}: no key stands before the sign; expected group=option or key=value")
    if not equals and not name.startswith("~"):
        joined = "; commas join the values of a sweep: key=1,2" if sweeps else ""
        raise NoSetting(f"{shown(word)}: expected group=option or key=value; --help lists the groups{joined}", word)
    if not is_text_key(name) or FUNCTION.fullmatch(value):
        return word
    if not sweeps or name in FOLDERS or name.startswith(("hydra.", "~")):
        _check_single_path(name, value)
        return f"{key}={_quote_typed(_expand_home(value, name))}"
    return f"{key}={','.join(_quote_typed(_expand_home(part, name)) for part in split_sweep(value))}"


def is_text_key(key: str) -> bool:
    """Tell whether the value of ``key`` is one text: a path, a URL, an address or a command."""
    return key in FOLDERS or re.split(r"[._]", key)[-1] in TEXT


def quote_if_needed(text: str) -> str:
    """Write a text so that Hydra reads exactly this."""
    found = _parse_value(text)
    return text if isinstance(found, str) and found == text else quote(text)


def quote(text: str) -> str:
    """Write a text in Hydra's quotes."""
    return QuotedString(text, Quote.single).with_quotes()


def _quote_typed(text: str) -> str:
    """Write what a user typed as one text: what Hydra reads as a text or as null stays, with its quotes or escapes."""
    found = _parse_value(text.strip())
    return text if found is None or isinstance(found, str | QuotedString) else quote(text.strip())


def _parse_value(text: str) -> Json:
    """Return what Hydra reads: a text, a `QuotedString`, None for null; anything else as ``...``."""
    try:
        found = _grammar().parse_override(f"key={text}")
    except HydraException:
        return ...
    return found._value if found.value_type is ValueType.ELEMENT else ...


def split_sweep(value: str) -> Iterator[str]:
    """Yield the values of a sweep."""
    at = 0
    while match := ELEMENT.match(value, at):
        yield match[1]
        at = match.end()
        if not match[0].endswith(",") or match[0] == match[1]:
            return


def _check_single_path(key: str, value: str) -> None:
    """Refuse several existing paths without a sweep. Raises `UserError`."""
    parts = [part.strip() for part in value.split(",")]
    if len(parts) > 1 and not _exists(value) and all(map(_exists, parts)):
        raise UserError(f"{key}={value[:200]}: several values; sweep over them with -m, or quote it if it is one path")


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _expand_home(value: str, key: str) -> str:
    """Replace ``~`` at the beginning, also within quotes: a shell does not behind ``key=``."""
    path = value.strip()
    if path.startswith(("'~", '"~')) and isinstance(found := _parse_value(path), QuotedString):
        home = _home(found.text, key)
        return value if home == found.text else quote(home)
    return _home(path, key) if path.startswith("~") else value


def _home(path: str, key: str) -> str:
    try:
        return path if key.endswith("command") else str(Path(path).expanduser())
    except RuntimeError:  # there is no such user
        return path


@cache
def _grammar() -> OverridesParser:
    return OverridesParser.create()


def _parser() -> ArgumentParser:
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    return parser


def _refuse(message: str) -> NoReturn:
    raise UserError(message.removeprefix("argument ")[:200])
