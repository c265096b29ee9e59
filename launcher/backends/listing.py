"""The models that an OpenAI-compatible server lists, and the choice of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from launcher.core import request_id
from launcher.core.console import one_line
from launcher.core.errors import HttpError, ServerError, UserError
from launcher.core.http import authorization, fetch, parsed

PLAIN_ID = "launcher/0/0/0"
"""An id as requests of samples have it."""
SHOWN, NAME_CHARACTERS = 10, 200
"""How many listed names an error quotes, and how many characters of each."""


@dataclass(frozen=True)
class Listing:
    """Lists the models of the server at ``url``, which ends in ``/v1``.

    ``name`` is the server's name in errors. ``key`` comes from the environment variable ``key_env``. ``timeout_s`` is
    the timeout of each request.
    """

    name: str
    url: str
    key: str | None
    key_env: str | None
    timeout_s: float

    def choose(self, model: str | None) -> str:
        """Return ``model``, or without one the only model that the server lists.

        Raises `ServerError` if no server answers, and `UserError` if it refuses the key or does not serve the model.
        """
        status, body = self.ask("/models")
        if status in (401, 403):
            hint = "no key was sent; set backend.api_key_env" if self.key_env is None else f"see {self.key_env}"
            raise UserError(f"{self.name}: the server refuses the API key (HTTP {status}); {hint}")
        if status >= 500:
            raise ServerError(f"{self.name}: /models answered HTTP {status}")
        names = _names(body) if status == 200 else None
        if model is not None:
            return _listed(model, names)
        if names is None:
            raise UserError(
                f"backend.model: {self.url}/models lists no models (HTTP {status}), "
                "so this may be no OpenAI-compatible server; else set it to the name to send"
            )
        if len(names) != 1:
            raise UserError(
                f"backend.model: the server lists {len(names)} models; set it to one of: {_shown(names) or '-'}"
            )
        return names[0]

    def takes_only_uuids(self) -> bool:
        """Return whether the server answers a request whose id is a plain text with HTTP 400, and others not."""
        named, _ = self.ask("/models", {request_id.HEADER: PLAIN_ID})
        return named == 400 and self.ask("/models")[0] != 400

    def ask(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Return the status and the body of ``path`` below the URL. Raises `ServerError` without an answer."""
        sent = authorization(self.key) | dict(headers or {})
        try:
            answer = fetch("GET", f"{self.url}{path}", timeout_s=self.timeout_s, headers=sent)
        except HttpError as error:
            raise ServerError(f"{self.name}: no server answers there: {error.reason}") from None
        return answer.status, answer.body


def split_url(url: str) -> SplitResult:
    """Return the parts of a base URL, without a slash at the end. Raises `UserError`."""
    try:
        parts = urlsplit(url.rstrip("/"))
        _ = parts.port
    except ValueError:
        raise UserError("backend.url=...: its host or port cannot be read; expected http(s)://host[:port]/v1") from None
    more = re.search(r"[?;#\s]", url)
    if parts.scheme not in ("http", "https") or not parts.hostname or more or not parts.path.endswith("/v1"):
        given = url if more is None else f"{url[: more.start() + 1]}..."  # what follows may be a secret
        form = "expected http(s)://host[:port]/v1, with nothing behind it"
        raise UserError(f"backend.url={given[:200]}: {form}{_whole(url)}")
    return parts


def _whole(url: str) -> str:
    """Return a hint for a URL that only lacks its scheme or its path."""
    found = re.fullmatch(r"(https?://)?([\w.-]+(?::\d+)?)(/v1)?/?", url)
    return f": {found[1] or 'http://'}{found[2]}/v1" if found else ""


def _listed(model: str, names: list[str] | None) -> str:
    if names is not None and model not in names:
        raise UserError(f"backend.model={model}: not served; expected one of {_shown(names) or 'none'}")
    return model


def _names(body: bytes) -> list[str] | None:
    """Return the models' names; None for anything but a list of objects that have one."""
    try:
        names = [entry["id"] for entry in parsed(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None
    return names if all(isinstance(name, str) and name for name in names) else None


def _shown(names: Sequence[str]) -> str:
    """Return the first names, shortened for a message."""
    more = f", ... ({len(names) - SHOWN} more)" if len(names) > SHOWN else ""
    return ", ".join(one_line(name, NAME_CHARACTERS) for name in names[:SHOWN]) + more
