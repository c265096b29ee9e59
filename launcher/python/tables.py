"""Tables for Python and for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

from launcher.core.console import printable


def table(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> Any:
    """Return a pandas DataFrame where pandas is installed, else a list of dicts."""
    found = [{name: row.get(name) for name in columns} for row in rows]
    if find_spec("pandas") is None:
        return found
    import pandas

    return pandas.DataFrame(found, columns=list(columns))


def as_html(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> str:
    """Return a table for a notebook; every text is escaped."""
    cells = "".join(f"<th style='text-align:left'>{_safe(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{_safe(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    lines = "".join(f"<div>{_safe(note)}</div>" for note in notes)
    whole = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f"<div><b>{_safe(title)}</b>{whole}{lines}</div>"


def as_text(title: str, rows: Iterable[Sequence[object]]) -> str:
    """Return a title and aligned columns."""
    texts = [[printable(str(value)).replace("\n", " ") for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in texts]
    return "\n  ".join([printable(title), *lines])


def _safe(value: object) -> str:
    return escape(printable(str(value)))
