"""Compares mathematical answers by what they mean, with the package math-verify."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from launcher.core.errors import UserError
from launcher.tasks import bounded

CPU_S = 10.0
"""The CPU time in seconds for one answer: math-verify itself gives 5 s to each of its steps."""
MEMORY_BYTES = 4 << 30
"""The memory of the process that compares: a tower of powers has no end."""
DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed|\\fbox|\\begin\{(?:equation|align|gather|math|displaymath)")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}")
"""Two words of a sentence; the name of a function in LaTeX is none."""


def installed_version() -> str:
    """Return the version of math-verify, which decides scores. Raises `UserError` where it is not installed."""
    try:
        return version("math-verify")
    except PackageNotFoundError:
        raise UserError("match=math_verify needs the package math-verify: pip install math-verify") from None


async def agreement(prediction: str, targets: Sequence[str]) -> float | None:
    """Return 1 if the prediction equals one of the targets, else 0; None if it holds nothing to compare.

    Raises `bounded.TooSlow` where that takes too long.
    """
    return await bounded.run(compare, prediction, tuple(targets), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)


def compare(prediction: str, targets: Sequence[str]) -> float | None:
    """Return what `agreement` does; in a process of its own, because sympy may not come to an end."""
    from math_verify import verify

    found = parsed(prediction)
    if not found:
        return None
    return float(any(verify(parsed(target), found, timeout_seconds=None) for target in targets))


def parsed(text: str) -> list[Any]:
    """Return the last answer in a text, or in its last ``\\boxed``, as math-verify reads it.

    A text that is nothing but an expression, without the signs that surround mathematics in LaTeX, is read as one.
    """
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that the limit of time is ours
    bare = not DELIMITED.search(text) and "\n" not in text.strip() and not PROSE.search(text)
    found: list[Any] = parse(f"\\boxed{{{text.strip()}}}" if bare else text, parsing_timeout=None)
    return found
