"""Reads rows from files: JSON lines, JSON arrays, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from launcher.core.errors import TaskError
from launcher.core.types import Json

Row = tuple[Mapping[str, Json], str, int]
"""The fields of a row, where it stands, and its number from 1; of JSON lines, the number is that of the line."""

BOM = b"\xef\xbb\xbf"
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "a ZIP archive, such as a spreadsheet"}
DELIMITERS = ",;\t|"
"""What may separate the columns of a .csv file; the one that its first line has outside of quotes."""
LINE_ENDS = ("\n", "", "\r\n")
BATCH = 256
"""Rows of a Parquet file that are held at a time."""


def rows(file: Path, path: str) -> Iterator[Row]:
    """Yield the rows of a file; ``path`` is its name in messages. Raises `TaskError` for a malformed one."""
    with _readable(path):
        match _format(file):
            case ".parquet":
                yield from _parquet_rows(file, path)
            case ".csv" | ".tsv" as kind:
                yield from _table_rows(file, path, kind)
            case ".json" if _is_array(file):
                yield from _array_rows(file, path)
            case _:
                yield from _json_lines(file, path)


def count(file: Path, path: str) -> int:
    """Return the number of rows, without reading more than it needs."""
    kind = _format(file)
    with _readable(path):
        if kind == ".parquet":
            return int(_parquet(file, path).metadata.num_rows)
        if kind in (".csv", ".tsv") or (kind == ".json" and _is_array(file)):
            return sum(1 for _ in rows(file, path))
        with _opened(file) as stream:
            return sum(1 for line in stream if line.strip())


def plain(value: Any) -> Json:
    """Return a value of Parquet or of datasets as JSON: dates as ISO 8601. Bytes stay, and no template takes them."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal | datetime.timedelta) else value


def _format(file: Path) -> str:
    name = file.name.lower().removesuffix(".gz")
    return Path(name).suffix


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from error


def _opened(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file)) if file.suffix.lower() == ".gz" else file.open("rb")


def _lines(file: Path, path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers, without a byte order mark."""
    with _opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                _check_encoding(line, path)
                line = line.removeprefix(BOM)
            yield number, line


def _check_encoding(start: bytes, path: str) -> None:
    for mark, name in OTHER_ENCODINGS.items():
        if start.startswith(mark):
            raise TaskError(f"{path}: this is {name}; expected text in UTF-8")


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{where}: byte {error.start + 1} is {line[error.start]:#04x}, which is not UTF-8; save the file as UTF-8"
        ) from None


def _json_lines(file: Path, path: str) -> Iterator[Row]:
    """Yield the objects of JSON lines; blank lines are skipped but counted."""
    for number, line in _lines(file, path):
        if line.strip():
            where = f"{path}:{number}"
            yield _object(_parsed(_text(line, where), where, 0), where), where, number


def _parsed(text: str, where: str, line: int) -> Json:
    """Return the value of a JSON text; ``line`` is 1 for a text of several lines, whose place an error then names."""
    try:
        return _decoded(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}{f':{error.lineno}' if line else ''}: not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where}: not JSON that can be read: {error}") from None


def _decoded(text: str) -> Json:
    """Do as the decoder, which takes half as long again to look for white space around a value."""
    if text.startswith("{"):
        value, end = _DECODER.raw_decode(text)
        if text[end:] in LINE_ENDS:
            return value
    return _DECODER.decode(text)


def _unique(pairs: Sequence[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _object(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TaskError(f"{where}: a JSON object is needed, this is a {type(value).__name__}")
    return value


def _is_array(file: Path) -> bool:
    with _opened(file) as stream:
        for line in stream:
            if start := line.removeprefix(BOM).strip():
                return start.startswith(b"[")
    return False


def _array_rows(file: Path, path: str) -> Iterator[Row]:
    text = "".join(_text(line, f"{path}:{number}") for number, line in _lines(file, path))
    for number, value in enumerate(_parsed(text, path, 1), start=1):
        where = f"{path} item {number}"
        yield _object(value, where), where, number


def _table_rows(file: Path, path: str, kind: str) -> Iterator[Row]:
    """Yield the rows below the line with the column names; every value is a text."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = (_text(line, f"{path}:{number}") for number, line in _lines(file, path))
    first = next(lines, "")
    reader = csv.reader(_again(first, lines), delimiter="\t" if kind == ".tsv" else _delimiter(first), strict=True)
    names: list[str] | None = None
    number = 0
    for line, cells in _records(reader, path):
        if names is None:
            names = _column_names(cells, f"{path}:{line}")
            continue
        number += 1
        if len(cells) != len(names):
            raise TaskError(f"{path}:{line}: {len(cells)} values, expected {len(names)} ({', '.join(names)})")
        yield dict(zip(names, cells, strict=True)), f"{path}:{line}", number


def _again(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _records(reader: Any, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not a blank line, with the number of its first line."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise TaskError(f"{path}:{line}: {error}; a quote within a quoted value is written twice") from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _delimiter(header: str) -> str:
    """Return the delimiter of a .csv file: the most frequent one outside of quotes in its first line."""
    outside = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=outside.count)


def _column_names(cells: Sequence[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    empty = next((number for number, name in enumerate(names, start=1) if not name), None)
    if empty is not None:
        raise TaskError(f"{where}: column {empty} has no name; the first line must hold the names of the columns")
    return _distinct(names, where)


def _distinct(names: Sequence[str], where: str) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{where}: two columns are called '{twice}'")
    return list(names)


def _parquet(file: Path, path: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TaskError(f"{path}: reading Parquet needs the package 'pyarrow': pip install pyarrow") from None
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, ValueError) as error:
        raise TaskError(f"{path}: not a Parquet file that can be read: {error}") from None


def _parquet_rows(file: Path, path: str) -> Iterator[Row]:
    found, number = _parquet(file, path), 0
    _distinct(found.schema_arrow.names, path)
    for batch in _batches(found, path):
        for values in batch:
            number += 1
            yield plain(values), f"{path} row {number}", number


def _batches(parquet: Any, path: str) -> Iterator[list[dict[str, Any]]]:
    import pyarrow

    batches = parquet.iter_batches(BATCH)
    while True:
        try:
            batch = next(batches, None)
            values = None if batch is None else batch.to_pylist()
        except (pyarrow.ArrowException, ValueError) as error:
            raise TaskError(f"{path}: cannot be read: {error}") from None
        if values is None:
            return
        yield values
