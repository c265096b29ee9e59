"""Reads and writes JSON as ``json`` does to the last digit, with orjson wherever that gives the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypedDict, Unpack

import orjson

from launcher.core.types import Json

_SHAPE = bytes(48 if chr(byte).isdigit() and byte < 128 else 32 for byte in range(256))
_LONG = b"0" * 19
_STRIDE = 6
"""Any 19 bytes in a row have three whose places are multiples of this."""
_SAMPLED = b"000"
_PLAIN = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_LONG_INTEGER = re.compile(rb"(?<![\d.])\d{19}")


class PythonOptions(TypedDict, total=False):
    """The options of ``json.loads`` that decide about numbers which orjson does not read."""

    parse_float: Callable[[str], float]
    parse_constant: Callable[[str], float]


def may_have_long_integers(data: bytes) -> bool:
    """Tell whether there may be an integer beyond 64 bits, of which orjson makes a float; at little cost."""
    return _SAMPLED in data[::_STRIDE].translate(_SHAPE) and _LONG in data.translate(_SHAPE)


def loads(data: bytes, **python: Unpack[PythonOptions]) -> Json:
    """Return the value of a JSON text in UTF-8, as ``json.loads`` does. Raises `ValueError`, and `RecursionError`.

    orjson makes a float of an integer beyond 64 bits. It refuses NaN, infinities, and halves of surrogate pairs. So
    the options of ``json.loads`` decide what becomes of those.
    """
    if may_have_long_integers(data) and _LONG_INTEGER.search(data):
        return json.loads(data, **python)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data, **python)


def dumps(value: Json) -> bytes:
    """Return a JSON text in UTF-8 that is read as that of ``json.dumps`` is; orjson writes null for NaN."""
    try:
        text = orjson.dumps(value, option=_PLAIN)
    except TypeError:
        return json.dumps(value).encode()
    return json.dumps(value).encode() if b"null" in text else text
