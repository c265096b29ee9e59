"""Every option of every adapter refuses values of another kind, and keeps the others as they are given."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.cli.given_types import check_types
from launcher.cli.setting_pages import type_at
from launcher.core.errors import UserError
from launcher.pipeline.components import extensions
from launcher.settings.component import COMPONENTS
from launcher.settings.overrides import CommandLine
from tests.running import launch_here

GIVEN = {
    "a list": "[1]", "texts": "[a]", "a list in a list": "[[1]]", "a null in a list": "[null]",
    "truth in a list": "[true]", "a mapping in a list": "[{a: 1}]", "an empty entry": "['']", "a mapping": "{a: 1}",
    "a list in a mapping": "{a: [1]}", "truth": "true", "below zero": "-1", "a fraction": "1.5", "a float": "1e30",
    "infinity": "inf", "null": "null", "a text": "abc", "control": "'a\tb'",
}  # fmt: skip
TEXTS = {"a text", "control", "below zero", "a fraction", "infinity"}
PATHS = {"a text", "a fraction", "a float", "infinity"}
TAKEN = {
    "str": TEXTS,
    "bool": {"truth"},
    "int": set[str](),
    "float": {"a fraction"},
    "list[str]": {"texts", "a list"},
    "list[int]": set[str](),
    "dict[str, any value]": {"a mapping", "a list in a mapping"},
    "dict[str, str]": {"a mapping"},
}
"""What an option takes by the type that its page names."""
NARROWER = {
    **dict.fromkeys(("file", "folder"), PATHS),
    "webhook": set[str](),
    "token_env": {"below zero", "a fraction", "infinity"},  # what is no variable fails once it is read
}
"""Options that take other values than their types do."""
NEEDED: dict[str, dict[str, Any]] = {"drop_params": {"names": ["a"]}, "rate_limit": {"requests_per_minute": 1}}
extensions()
OPTIONS = [
    (path.split("/")[1], each.name)
    for path, cls in sorted(COMPONENTS.items())
    if path.startswith("adapters/") and cls.__module__.startswith("launcher.")
    for each in fields(cls)
]


def taken(adapter: str, option: str, value: str) -> Any:
    """Return what an option becomes that is given on the command line."""
    key = f"adapters.{adapter}.{option}"
    line = CommandLine.parse([f"{key}={value}"])
    check_types(line)
    cls = COMPONENTS[f"adapters/{adapter}"]
    settings = OmegaConf.structured(cls(**NEEDED.get(adapter, {})))
    OmegaConf.update(settings, option, line.get(key), merge=True)
    return getattr(OmegaConf.to_object(settings), option)


@pytest.mark.parametrize(("adapter", "option"), OPTIONS)
def test_an_option_takes_values_of_its_type_only(adapter: str, option: str) -> None:
    kind, _, null = type_at(f"adapters.{adapter}.{option}").partition(" or ")
    wanted = NARROWER.get(option, TAKEN.get(kind, set()))
    wanted = wanted | {"null"} if null and (adapter, option) != ("rate_limit", "requests_per_minute") else wanted
    found = set[str]()
    for name, value in GIVEN.items():
        with suppress(UserError, OmegaConfBaseException):
            taken(adapter, option, value)
            found.add(name)
    assert found == wanted


def test_values_of_a_sweep_are_compared_one_by_one() -> None:
    check_types(CommandLine.parse(["adapters.system_message.text=1,2,abc"]))
    with pytest.raises(UserError, match="a text is due"):
        check_types(CommandLine.parse(["adapters.system_message.text=abc,1e30"]))


@pytest.mark.parametrize(
    ("adapter", "option", "words"),
    [
        ("http_dump", "adapters.http_dump.folder=[1]", "adapters.http_dump.folder is '[1]'"),
        ("caching", "adapters.caching.folder={a: 1}", "adapters.caching.folder is '{a: 1}'"),
        ("request_log", "adapters.request_log.file=true", "adapters.request_log.file is 'true'"),
        ("omni", "adapters.omni.separator=true", "adapters.omni.separator='true'"),
        ("system_message", "adapters.system_message.text=1e30", "adapters.system_message.text='1e30'"),
        ("reasoning", "adapters.reasoning.starts_inside=-1", "expected true or false"),
        ("modify_tools", "adapters.modify_tools.keep=['']", "adapters.modify_tools.keep has an empty entry"),
        ("payload", "+adapters.payload.add_headers={X A: b}", "'X A' is no name of a header"),
        ("payload", "+adapters.payload.headers_env={X A: HOME}", "adapters.payload.headers_env has the name 'X A'"),
        ("payload", "adapters.payload.remove_headers=[X A]", "adapters.payload.remove_headers has the name 'X A'"),
    ],
)
def test_a_wrong_value_is_one_line_with_a_remedy(adapter: str, option: str, words: str, tmp_path: Path) -> None:
    plan = "mode=plan", "engine=echo", "model=none", "tasks=addition", f"adapters=[{adapter}]"
    done = launch_here(tmp_path, *plan, option)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line
