"""Adds, removes or renames parameters and headers of every request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from launcher.adapters.base import Edit, Imposed, Part
from launcher.core.credentials import HEADER
from launcher.core.errors import AdapterError, UserError
from launcher.core.redaction import reveal
from launcher.core.types import Request
from launcher.settings.component import component


@component("adapters/payload")
class Payload(Edit):
    """Changes the JSON body and the headers, in this order: remove, rename, add.

    ``add`` overwrites what the request has; ``remove`` and ``rename`` leave alone what it has not. ``add_headers`` and
    ``remove_headers`` do the same to headers, whose names are compared without case. ``add_env`` and ``headers_env``
    add secrets: each names the environment variable that holds the text, which is read when it is needed and written
    nowhere. Raises `AdapterError` when a rename would overwrite another parameter.

    The record of a score names every parameter that is changed so. An evaluation takes no ``n``, ``best_of``, ``echo``,
    ``stream``, ``prompt``, ``messages``, ``suffix`` and ``use_beam_search``, which its tasks set themselves.

    Use it for parameters and headers that a server needs and a task does not send, such as ``chat_template_kwargs``.

    Example: ``python launch.py 'adapters=[retry,payload]'
    '+adapters.payload.add.chat_template_kwargs={enable_thinking: false}'``
    """

    copies = True

    add: dict[str, Any] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    add_headers: dict[str, str] = field(default_factory=dict)
    remove_headers: list[str] = field(default_factory=list)
    add_env: dict[str, str] = field(default_factory=dict)
    headers_env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in ("add_headers", "headers_env", "remove_headers"):
            check_headers(getattr(self, group), f"adapters.payload.{group}")
        self._in_body = bool(self.add or self.remove or self.rename or self.add_env)
        self._only_adds = bool(self.add) and not (self.remove or self.rename or self.add_env)
        self._in_headers = bool(self.add_headers or self.remove_headers or self.headers_env)
        self.reads = self.rewrites = Part.request if self._in_body else Part.none

    def variables(self) -> dict[str, str]:
        return {
            **{f"adapters.payload.add_env.{name}": variable for name, variable in self.add_env.items()},
            **{f"adapters.payload.headers_env.{name}": variable for name, variable in self.headers_env.items()},
        }

    def imposes(self) -> Iterator[Imposed]:
        key = "adapters.payload"
        for name, value in self.add.items():
            yield Imposed(name, f"{key}.add.{name}", f"= {json.dumps(value, default=str)}")
        for name in self.remove:
            yield Imposed(name, f"{key}.remove", "left out", is_set=False)
        for name, new in self.rename.items():
            yield Imposed(name, f"{key}.rename.{name}", f"renamed to {new}", is_set=False)
            yield Imposed(new, f"{key}.rename.{name}", f"with the value of {name}")
        for name, variable in self.add_env.items():
            yield Imposed(name, f"{key}.add_env.{name}", f"= ${variable}")

    def edit(self, request: Request) -> Request:
        if self._in_headers:
            request = replace(request, headers=self._headers(request.headers))
        if self._only_adds:
            return request.with_body({**request.body, **self.add})
        return request.with_body(self._body(request.body)) if self._in_body else request

    def _body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        made = {**self._renamed(body), **self.add}
        return made | _revealed(self.add_env, "add_env") if self.add_env else made

    def _renamed(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.remove and not self.rename:
            return body
        made: dict[str, Any] = {}
        for key, value in body.items():
            if key in self.remove:
                continue
            name = self.rename.get(key, key)
            if name in made or (name != key and name in body and name not in self.remove):
                raise AdapterError(f"payload: renaming '{key}' would overwrite '{name}'")
            made[name] = value
        return made

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        added = self.add_headers | _revealed(self.headers_env, "headers_env")
        gone = {name.lower() for name in [*self.remove_headers, *added]}
        return {name: value for name, value in headers.items() if name.lower() not in gone} | added


def check_headers(names: Iterable[str], key: str) -> None:
    """Refuse what is no name of a header. Raises `UserError`."""
    for name in names:
        if not HEADER.fullmatch(name):
            raise UserError(f"{key} has the name '{name}'; a header's name has letters, digits and hyphens: X-Team")


def _revealed(variables: Mapping[str, str], group: str) -> dict[str, str]:
    return {name: reveal(variable, f"adapters.payload.{group}.{name}") for name, variable in variables.items()}
