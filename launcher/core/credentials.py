"""Refuses secrets that are given as values: a configuration names the environment variables that hold them."""

from __future__ import annotations

import os
import re
import shlex
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from launcher.core.errors import UserError
from launcher.core.redaction import MIN_LENGTH, hide
from launcher.core.types import Json

NOT_SHOWN = "the value may be a secret, and is not shown"
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A name of a header (RFC 9110, 5.1)."""

WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "apikey", "credential", "credentials", "authorization"}
) | {"bearer", "cookie", "creds"}
"""Words that make a name one of a secret wherever they stand in it."""

LAST_WORDS = frozenset({"token", "pat", "auth", "pass"})
"""Words that make a name one of a secret at its end: ``HF_TOKEN``, and not ``stop_token_ids``."""

WORDS_BEFORE_KEY = frozenset(
    {
        *("api", "access", "secret", "private", "auth", "license", "signing", "encryption", "account", "my"),
        *("user", "session", "subscription", "service", "client", "refresh", "bearer", "hf", "admin", "shared"),
    }
)
"""Words that make a name one of a secret before a last ``key`` or ``tokens``: ``X-Api-Key``."""

TEXT_TOKEN_WORDS = frozenset(
    {
        *("eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop", "start", "end", "begin", "image", "special"),
        *("max", "min", "per", "next", "first", "last", "prefix", "prompt", "think", "tool"),
    }
)
"""Words before a last ``token`` that make it one of a text."""

SECRET_SUBSTRING = re.compile(r"password|passwd|passphrase|apikey|secret|credential")
"""What makes a word one of a secret wherever it stands in it: ``MYAPIKEY``."""

AMBIGUOUS_NAMES = frozenset({"k", "sid", "sessionid", "session", "sig", "signature", "jwt"})
"""Names of secrets and of other things: the value decides."""

KNOWN_KEY = re.compile(
    r"\b(?:sk-[\w-]{8,}|sk_(?:live|test)_\w{8,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|nvapi-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|gsk_[A-Za-z0-9]{16,}|pypi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""How keys of well-known services begin."""

USERINFO = re.compile(r"[a-z][a-z0-9+.-]{0,30}://([^\s/?#@\"']+)@", re.IGNORECASE)
QUERY = re.compile(r"[?&;#]([\w.-]+)=([^&;\s\"'#]+)")
SCHEME = re.compile(r"\b(Bearer|Basic)\s+([\w.~+/=-]{8,})")
"""The value of a header that authenticates."""
NAME_AND_VALUE = re.compile(
    r"""([A-Za-z][\w-]{0,63})["']?\s{0,9}[:=]\s{0,9}["']?((?:(?:Bearer|Basic|Token)\s+)?[^\s"',}]+)"""
)
"""``NAME=value``, ``Header: value`` or ``"key": "value"``."""
OPTION = re.compile(r"--?([A-Za-z][\w-]*)")
USER = re.compile(r"-u|--user|--proxy-user")
HTTP_CLIENTS = frozenset({"curl", "wget", "http", "https", "xh"})
"""Programs whose ``-u`` is a name and a password; that of others may be two groups of a system."""
NO_SECRET = re.compile(
    r"(?:(?:Bearer|Basic|Token)\s+)?"
    r"(?:[$<{].*|true|false|null|none|no|yes|auto|basic|forward|replace|remove|-?\d{1,5}(?:\.\d*)?|\d+(?:\.\d+){2,}|@?(?:~|\.{1,2})?/.*)",
    re.IGNORECASE,
)
"""A value that is no secret itself: a variable, a place in a template, a word, a short number, a version, a path."""
PATH = re.compile(r"@?(?:(?:~|\.{1,2})/|/[^/]+(?:/|\.(?:pem|key|crt|cer|json|ya?ml|toml|txt|env|cfg|conf|ini)$))")
"""How a path begins that is not one word behind a slash."""
LETTERS_AND_DIGITS = re.compile(r"(?=[\w+=~-]{0,99}\d)(?=[\w+=~-]{0,99}[A-Za-z])[\w+=~]{8,}")
"""A part of a text that has letters and digits, as keys do."""
ENVIRONMENT_REFERENCE = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]+)")
SHELL_VARIABLES = frozenset({"PWD", "OLDPWD"})
"""Variables whose names look like those of secrets, but are not."""

VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
CONVENTIONAL_NAME = re.compile(r"[A-Z]{1,15}\d{0,2}(?:_(?:[A-Z]{1,15}\d{0,2}|\d{1,3}))*")
"""The form of an ordinary variable's name, which a secret does not have."""

RUNTIME_VARIABLES = re.compile(
    r"(?:CUDA|NVIDIA|NCCL|GLOO|UCX|FI|OMP|GOMP|KMP|MKL|OPENBLAS|CUBLAS|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|XLA|VLLM|SGLANG"
    r"|SGL|TRTLLM|NIM|HF|TRANSFORMERS|TOKENIZERS|RAY|PYTHON\w*|LD|LC|FLASHINFER|NVTE|LAUNCHER|LLAMA)_\w+"
    r"|PATH|LANG|TZ|HOME|TMPDIR|PYTHON\w+|\w*LOG_LEVEL",
)
"""Variables that set up a runtime, and take words and lists of them."""
PLAIN_WORD = re.compile(r"[A-Za-z]{1,24}|[A-Za-z]{0,3}\d{1,6}[A-Za-z]{0,3}|")
SIMPLE_VALUE = re.compile(r"[A-Za-z]{1,12}|[+-]?[\d.,:]{1,20}|(?:~|\.{0,2})/[\w./-]*|")
OPEN_HEADERS = frozenset({"accept", "accept-language", "accept-encoding", "user-agent", "content-type", "connection"})
"""Headers that say nothing secret."""

SCRIPT_KEYS = frozenset({"command", "setup", "srun_args", "additional_parameters"})
"""Keys that hold words of a command or of a shell."""


class SecretGiven(UserError):
    """A secret that is given as a value; the message does not repeat it."""


@dataclass(frozen=True)
class KeyPath:
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
        return not SCRIPT_KEYS.isdisjoint(self.names)

    def beside(self, group: str) -> str:
        """Return the key of the same name in a neighbouring group, for the name of a variable."""
        return "+" + ".".join((*self.names[:-2], group, self.name)) + "=MY_VARIABLE"


def check(key: str, value: Json) -> None:
    """Refuse secrets in the value of a key, also within lists and mappings.

    Raises `SecretGiven`, also for bytes; a refused value is redacted from then on.
    """
    for path, text in _texts(KeyPath(tuple(key.split(".")) if key else ()), value):
        _check(path, text)


def check_word(key: str, text: str) -> None:
    """Refuse a word of the command line that cannot be read and may hold a secret. Raises `SecretGiven`."""
    check_name(key)
    path = KeyPath(tuple(key.split(".")))
    groups = ("add_headers", "headers", "environment", "env_set")
    if path.variable or path.header or path.environment or path.name in groups or is_secret(path.name):
        raise _refused(path, text, _remedy(path))
    _check_text(path, text)
    _check_script(path, text)


def check_name(name: str) -> None:
    """Refuse a key of the command line that is a secret itself. Raises `SecretGiven`."""
    if KNOWN_KEY.search(name):
        raise _refused(KeyPath(("a word of the command line",)), name, f"it looks like a key; {_remedy(KeyPath(()))}")


_read: list[str] = []
"""Variables that hold a secret and that an interpolation has read."""


def note(variable: str, value: str) -> None:
    """Remember for `interpolated` that an interpolation has read a variable, if it holds a secret."""
    if _holds_secret(variable, value):
        _read.append(variable)
        hide(value, variable)


@contextmanager
def interpolated(key: str) -> Iterator[None]:
    """Refuse what is resolved within if it has read a secret. Raises `SecretGiven`."""
    _read.clear()
    yield
    if _read:
        said = f"{key}: the value of ${{oc.env:{_read[0]}}} would be written to the run folder"
        raise SecretGiven(f"{said}; {_remedy(KeyPath((key,)))}")


def _holds_secret(variable: str, value: str) -> bool:
    if variable in SHELL_VARIABLES or len(value) < MIN_LENGTH:
        return False
    return KNOWN_KEY.search(value) is not None or (is_secret(variable) and not _is_no_secret(value))


def looks_random(text: str) -> bool:
    """Tell whether a text has a part of letters and digits, or is like a known key."""
    return bool(LETTERS_AND_DIGITS.search(text) or KNOWN_KEY.search(text))


def shown(text: str) -> str:
    """Return the beginning of a text for a message; three dots for a text that looks like a key."""
    mixed = re.search(r"(?=[^\s/]*\d)(?=[^\s/]*[A-Za-z])[\w+=-]{16,}", text)
    return "..." if mixed or KNOWN_KEY.search(text) else text[:200]


def _texts(path: KeyPath, value: Json) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            if KNOWN_KEY.search(str(name)):
                raise _refused(path, str(name), "one of its names looks like a key")
            yield from _texts(KeyPath((*path.names, str(name))), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(replace(path, listed=True), item)
    elif isinstance(value, str) and value:
        yield path, value
    elif isinstance(value, int) and not isinstance(value, bool):
        if is_secret(path.name) and path.kind not in ("rename", "budget") and len(str(abs(value))) >= MIN_LENGTH:
            raise _refused(path, str(value), _remedy(path))
    elif isinstance(value, bytes):
        raise _refused(path, value.decode("utf-8", "replace"), "expected a text, not bytes (YAML's !!binary)")
    elif isinstance(value, Path):
        yield path, str(value)


def _check(path: KeyPath, text: str) -> None:
    if path.variable:
        _check_variable(path, text)
        return
    _check_reference(path, text)
    if path.header and not _is_open_header(path.name, text):
        raise _refused(path, text, _remedy(path))
    if path.environment and not _is_setting(path.name, text):
        raise _refused(path, text, _remedy(path))
    if path.kind != "rename" and _is_secret_pair(path.name, text):
        raise _refused(path, text, _remedy(path))
    _check_text(path, text)


def _check_variable(path: KeyPath, text: str) -> None:
    """Refuse what is no name of a variable, or may be a secret and is no variable that is set."""
    if text in os.environ or (CONVENTIONAL_NAME.fullmatch(text) and len(text) <= 60 and not KNOWN_KEY.search(text)):
        return
    wrong = "no variable of this name is set" if VARIABLE.fullmatch(text) else "it is no name of a variable"
    raise _refused(path, text, f"{wrong}; put the secret into one (export MY_KEY=...) and give its name: MY_KEY")


def _check_reference(path: KeyPath, text: str) -> None:
    """Refuse ``${oc.env:NAME}`` where its value is, or may be, a secret: it is written with the configuration."""
    for variable in ENVIRONMENT_REFERENCE.findall(text):
        if variable in SHELL_VARIABLES and not (path.header or is_secret(path.name)):
            continue
        if path.header or path.environment or is_secret(path.name) or is_secret(variable):
            said = f"{path.key}: the value of ${{oc.env:{variable}}} would be written to the run folder"
            raise SecretGiven(f"{said}; {_remedy(path)}")


def _check_text(path: KeyPath, text: str) -> None:
    if found := KNOWN_KEY.search(text):
        raise _refused(
            path, re.split(r"[\s\"',;&}]", text[found.start() :])[0], f"it looks like a key; {_remedy(path)}"
        )
    for userinfo in USERINFO.findall(text):
        if not _is_no_secret(userinfo):
            raise _refused(path, userinfo, f"expected a URL without a password; {_remedy(path)}")
    for parameter, value in QUERY.findall(text):
        if _is_secret_pair(parameter, value):
            raise _refused(path, value, f"expected a URL without {parameter}=; {_remedy(path)}")
    for scheme, value in SCHEME.findall(text):
        if _authenticates(scheme, value):
            raise _refused(path, value, _remedy(path))
    if path.script:
        _check_script(path, text)


def _check_script(path: KeyPath, text: str) -> None:
    for name, value in (*NAME_AND_VALUE.findall(text), *_options(text)):
        if _is_secret_pair(name, value):
            raise _refused(path, value, f"the value of {name}; {_remedy(path)}")


def _authenticates(scheme: str, value: str) -> bool:
    """Tell whether a word behind ``Bearer`` looks random, or one behind ``Basic`` is a name and a password."""
    if scheme == "Bearer":
        return LETTERS_AND_DIGITS.search(value) is not None and not _is_no_secret(value)
    try:
        return b":" in b64decode(value, validate=True)
    except ValueError:
        return False


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Yield each option of a command, and of the commands in its words, with the word behind it; also ``NAME=value``.

    A word is what a shell makes of it: quotes and backslashes are taken off.
    """
    words = _words(text)
    for word in words:
        if word != text and re.search(r"\s", word):
            yield from _options(word)
        yield from NAME_AND_VALUE.findall(word)
        for before, after in pairwise(word.split("=")):  # --env=HF_TOKEN=...
            yield before[-64:], after
    filled = [word for word in words if word]
    for word, after in pairwise(filled):
        if (option := OPTION.fullmatch(word)) and (not after.startswith("-") or LETTERS_AND_DIGITS.search(after)):
            yield option[1], after
    yield from _users(filled)


def _users(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the passwords of ``-u name:password`` and ``--user=name:password``."""
    asks = any(word.rpartition("/")[2] in HTTP_CLIENTS for word in words)
    for word, after in pairwise([*words, ""]):
        option, _, joined = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        password = (joined or after).partition(":")[2]
        if USER.fullmatch(option) and password and (asks or LETTERS_AND_DIGITS.search(password)):
            yield "password", password


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation that is not closed
        return [re.sub(r"[\"'\\]", "", word) for word in text.split()]


def _is_secret_pair(name: str, value: str) -> bool:
    """Tell whether a name and its value give a secret away."""
    if name == "tokens" and value.isdecimal():  # how many of a text there are
        return False
    if is_secret(name):
        return not _is_no_secret(value)
    return name.lower().replace("_", "").replace("-", "") in AMBIGUOUS_NAMES and bool(LETTERS_AND_DIGITS.search(value))


def _is_no_secret(value: str) -> bool:
    """Tell whether a value says only where a secret is, or cannot be one."""
    if value.lstrip("@~.").startswith("/"):
        return bool(PATH.match(value)) or len(value) < MIN_LENGTH
    return bool(NO_SECRET.fullmatch(value))


def _refused(path: KeyPath, value: str, form: str) -> SecretGiven:
    """Return the error, and redact the value everywhere from now on."""
    for part in (value, unquote(value), *re.split(r"[:@\s]+", value), value.lstrip("-/@~.")):
        hide(part)
    return SecretGiven(f"{path.key}: {NOT_SHOWN}; {form}")


def _remedy(path: KeyPath) -> str:
    """Say how a secret in this place is given."""
    if path.key == "proxy.authorization":
        return "expected one of replace, forward, remove"
    if path.header:
        if not HEADER.fullmatch(path.name):
            return f"'{path.name}' is no name of a header, which has letters, digits and hyphens: X-Team"
        return f"export it, and name the variable: {path.beside('headers_env')}"
    if path.name in ("add_headers", "headers"):
        return f"export it, and name the variable: +{path.key.rpartition('.')[0]}.headers_env.X-Team=MY_VARIABLE"
    if path.kind == "add":
        return f"export it, and name the variable: {path.beside('add_env')}"
    if path.kind == "environment":
        return f"export {path.name}, which the server inherits, or name another: {path.beside('environment_env')}"
    if path.kind == "env_set":
        return f"export {path.name}, which the program inherits"
    if path.script:
        return (
            "export it: the server and the job inherit the environment (sh -c '... \"$MY_KEY\"' where it is an option)"
        )
    if path.key == "cluster.environment":
        return f"export it, and give the name alone: {path.key}=[NAME]"
    return "export it, and name the variable: backend.api_key_env=MY_KEY"


def is_secret(name: str) -> bool:
    """Tell whether a name is one of a secret: ``HF_TOKEN``, ``X-Api-Key``, ``dbPassword``."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    while words and words[-1].isdecimal():
        words.pop()
    if not words:
        return False
    before, last = words[-2] if len(words) > 1 else "", words[-1]
    keyed = last in ("key", "keys", "tokens") and (not before or before in WORDS_BEFORE_KEY)
    closed = last in LAST_WORDS and not (last == "token" and before in TEXT_TOKEN_WORDS)
    return keyed or closed or _is_joined(last) or any(word in WORDS or SECRET_SUBSTRING.search(word) for word in words)


def _is_joined(word: str) -> bool:
    """Tell whether a word is one of a secret that is written in one: ``apitoken``."""
    ends = re.fullmatch(r"(.+)(?:key|token)s?", word)
    return ends is not None and any(ends[1].endswith(key) for key in WORDS_BEFORE_KEY if len(key) > 2 or key == ends[1])


def _is_open_header(header: str, text: str) -> bool:
    return header.lower() in OPEN_HEADERS and not KNOWN_KEY.search(text)


def _is_setting(name: str, text: str) -> bool:
    """Tell whether a variable's value is plainly a setting: a number, a path, a word, or more for a known runtime."""
    if is_secret(name) or is_secret(text) or KNOWN_KEY.search(text):
        return False
    words = re.split(r"[,:;=_. /+~-]+", text)
    return bool(SIMPLE_VALUE.fullmatch(text)) or bool(
        RUNTIME_VARIABLES.fullmatch(name) and all(map(PLAIN_WORD.fullmatch, words))
    )
