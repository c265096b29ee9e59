"""Refuses secrets that are given as values: a configuration names the environment variables that hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

from launcher.core.errors import UserError
from launcher.core.redaction import hide
from launcher.core.types import Json

HIDDEN = "the value may be a secret, and is not shown"

WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "apikey", "credential", "credentials", "authorization"}
) | {"bearer", "cookie"}
"""Words that make a name one of a secret wherever they stand in it."""

LAST = frozenset({"token", "pat", "auth", "pass"})
"""Words that do so at the end of a name: ``HF_TOKEN``, and not ``stop_token_ids``."""

KEYS = frozenset({"api", "access", "secret", "private", "auth", "license", "signing", "encryption", "account", "my"})
"""Words that do so before a last ``key``: ``X-Api-Key``."""

KNOWN = re.compile(
    r"\b(?:sk-[\w-]{8,}|sk_(?:live|test)_\w{8,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|nvapi-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|gsk_[A-Za-z0-9]{16,}|pypi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""How keys of well-known services begin."""

USERINFO = re.compile(r"[a-z][a-z0-9+.-]*://([^\s/?#@\"']+)@", re.IGNORECASE)
QUERY = re.compile(r"[?&]([\w.-]+)=([^&\s\"'#]+)")
PAIR = re.compile(r"""([A-Za-z][\w-]*)["']?\s*[:=]\s*["']?((?:(?:Bearer|Basic|Token)\s+)?[^\s"',}]+)""")
"""``NAME=value``, ``Header: value`` or ``"key": "value"``."""
OPTION = re.compile(r"""--?([A-Za-z][\w-]*)\s+["']?([^\s"'-][^\s"']*)""")
"""``--name value``."""
ELSEWHERE = re.compile(
    r"(?:(?:Bearer|Basic|Token)\s+)?(?:[$<{/].*|true|false|null|none|no|yes|auto|basic|[\d.]+)", re.I
)
"""A value that is no secret itself: a variable, a place in a template, a path, a number."""
REFERENCE = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]+)")

VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
CONVENTIONAL = re.compile(r"[A-Z]{1,15}\d{0,2}(?:_(?:[A-Z]{1,15}\d{0,2}|\d{1,3}))*")
"""A name that nobody takes for a secret."""

SETTINGS = re.compile(
    r"(?:CUDA|NVIDIA|NCCL|GLOO|UCX|FI|OMP|GOMP|KMP|MKL|OPENBLAS|CUBLAS|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|XLA|VLLM|SGLANG"
    r"|SGL|TRTLLM|NIM|HF|TRANSFORMERS|TOKENIZERS|RAY|PYTHON\w*|LD|LC|FLASHINFER|NVTE|LAUNCHER|LLAMA)_\w+"
    r"|PATH|LANG|TZ|HOME|TMPDIR|PYTHON\w+|\w*LOG_LEVEL",
)
"""Variables that set up a runtime, and take words and lists of them."""
TOKEN = re.compile(r"[A-Za-z]{1,24}|[A-Za-z]{0,3}\d{1,6}[A-Za-z]{0,3}|")
SIMPLE = re.compile(r"[A-Za-z]{1,12}|[+-]?[\d.,:]{1,20}|(?:~|\.{0,2})/[\w./-]*|")
OPEN_HEADERS = frozenset({"accept", "accept-language", "accept-encoding", "user-agent", "content-type", "connection"})
"""Headers that say nothing secret."""

SCRIPTS = frozenset({"command", "setup", "srun_args", "additional_parameters"})
"""Keys that hold words of a command or of a shell."""


class SecretGiven(UserError):
    """A secret that is given as a value; the message does not repeat it."""


@dataclass(frozen=True)
class Place:
    """Where a text stands: the names that lead to it, without the numbers of a list (``listed``)."""

    names: tuple[str, ...]
    listed: bool = False

    @property
    def key(self) -> str:
        return ".".join(self.names)

    @property
    def name(self) -> str:
        return self.names[-1] if self.names else ""

    @property
    def kind(self) -> str:
        return self.names[-2] if len(self.names) > 1 else ""

    @property
    def variable(self) -> bool:
        """Whether the text is the name of a variable."""
        return self.name.endswith("_env") or self.kind.endswith("_env") or (self.name == "environment" and self.listed)

    @property
    def header(self) -> bool:
        return self.kind in ("add_headers", "headers")

    @property
    def environment(self) -> bool:
        return self.kind in ("environment", "env_set")

    @property
    def script(self) -> bool:
        """Whether the text holds words of a command or of a shell."""
        return not SCRIPTS.isdisjoint(self.names)

    def beside(self, group: str) -> str:
        """Return the key of the same name in a neighbouring group, for the name of a variable."""
        return "+" + ".".join((*self.names[:-2], group, self.name)) + "=MY_VARIABLE"


def check(key: str, value: Json) -> None:
    """Refuse secrets in the value of a key, in all that it holds.

    Raises `SecretGiven`; what is refused is redacted from then on.
    """
    for place, text in _texts(Place(tuple(key.split(".")) if key else ()), value):
        _check(place, text)


def check_word(key: str, text: str) -> None:
    """Refuse a word of the command line that cannot be read and may hold a secret. Raises `SecretGiven`."""
    place = Place(tuple(key.split(".")))
    groups = ("add_headers", "headers", "environment", "env_set")
    if place.variable or place.header or place.environment or place.name in groups or is_secret(place.name):
        raise _refused(place, text, _form(place))
    _check_text(place, text)
    _check_script(place, text)


def shown(text: str) -> str:
    """Return the beginning of a text to quote in a message; dots for one that looks like a key."""
    mixed = re.search(r"(?=[^\s/]*\d)(?=[^\s/]*[A-Za-z])[\w+=-]{16,}", text)
    return "..." if mixed or KNOWN.search(text) else text[:200]


def _texts(place: Place, value: Json) -> Iterator[tuple[Place, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            if KNOWN.search(str(name)):
                raise _refused(place, str(name), "one of its names looks like a key")
            yield from _texts(Place((*place.names, str(name))), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(replace(place, listed=True), item)
    elif isinstance(value, str) and value:
        yield place, value


def _check(place: Place, text: str) -> None:
    if place.variable:
        _check_variable(place, text)
        return
    _check_reference(place, text)
    if place.header and not _is_open(place.name, text):
        raise _refused(place, text, _form(place))
    if place.environment and not _is_setting(place.name, text):
        raise _refused(place, text, _form(place))
    if is_secret(place.name) and place.kind != "rename" and not ELSEWHERE.fullmatch(text):
        raise _refused(place, text, _form(place))
    _check_text(place, text)


def _check_variable(place: Place, text: str) -> None:
    """Refuse what is no name of a variable, or may be a secret and is no variable that is set."""
    if text in os.environ or (CONVENTIONAL.fullmatch(text) and len(text) <= 60 and not KNOWN.search(text)):
        return
    wrong = "no variable of this name is set" if VARIABLE.fullmatch(text) else "it is no name of a variable"
    raise _refused(place, text, f"{wrong}; put the secret into one (export MY_KEY=...) and give its name: MY_KEY")


def _check_reference(place: Place, text: str) -> None:
    """Refuse ``${oc.env:NAME}`` where its value is, or may be, a secret: it is written with the configuration."""
    for variable in REFERENCE.findall(text):
        if place.header or place.environment or is_secret(place.name) or is_secret(variable):
            said = f"{place.key}: the value of ${{oc.env:{variable}}} would be written to the run folder"
            raise SecretGiven(f"{said}; {_form(place)}")


def _check_text(place: Place, text: str) -> None:
    if found := KNOWN.search(text):
        raise _refused(
            place, re.split(r"[\s\"',;&}]", text[found.start() :])[0], f"it looks like a key; {_form(place)}"
        )
    for userinfo in USERINFO.findall(text):
        if not ELSEWHERE.fullmatch(userinfo):
            raise _refused(place, userinfo, f"expected a URL without a password; {_form(place)}")
    for parameter, value in QUERY.findall(text):
        if is_secret(parameter) and not ELSEWHERE.fullmatch(value):
            raise _refused(place, value, f"expected a URL without {parameter}=; {_form(place)}")
    if place.script:
        _check_script(place, text)


def _check_script(place: Place, text: str) -> None:
    for pattern in (PAIR, OPTION):
        for name, value in pattern.findall(text):
            if is_secret(name) and not ELSEWHERE.fullmatch(value):
                raise _refused(place, value, f"the value of {name}; {_form(place)}")


def _refused(place: Place, value: str, form: str) -> SecretGiven:
    """Return the error, and see to it that the value is written nowhere else."""
    for part in (value, unquote(value), *re.split(r"[:@\s]+", value)):
        hide(part)
    return SecretGiven(f"{place.key}: {HIDDEN}; {form}")


def _form(place: Place) -> str:
    """Say how a secret in this place is given."""
    if place.header:
        return f"export it, and name the variable: {place.beside('headers_env')}"
    if place.kind == "add":
        return f"export it, and name the variable: {place.beside('add_env')}"
    if place.kind == "environment":
        return f"export {place.name}, which the server inherits, or name another: {place.beside('environment_env')}"
    if place.kind == "env_set":
        return f"export {place.name}, which the program inherits"
    if place.script:
        return (
            "export it: the server and the job inherit the environment (sh -c '... \"$MY_KEY\"' where it is an option)"
        )
    return "export it, and name the variable: backend.api_key_env=MY_KEY"


def is_secret(name: str) -> bool:
    """Tell whether a name is one of a secret: ``HF_TOKEN``, ``X-Api-Key``, ``dbPassword``."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if not words:
        return False
    keyed = words[-1] in ("key", "keys") and (len(words) == 1 or words[-2] in KEYS)
    return keyed or words[-1] in LAST or not WORDS.isdisjoint(words)


def _is_open(header: str, text: str) -> bool:
    return header.lower() in OPEN_HEADERS and not KNOWN.search(text)


def _is_setting(name: str, text: str) -> bool:
    """Tell whether a variable's value is plainly a setting: a number, a path, a word, or more for a known runtime."""
    if is_secret(name) or is_secret(text) or KNOWN.search(text):
        return False
    words = re.split(r"[,:;=_. /+~-]+", text)
    return bool(SIMPLE.fullmatch(text)) or bool(SETTINGS.fullmatch(name) and all(map(TOKEN.fullmatch, words)))
