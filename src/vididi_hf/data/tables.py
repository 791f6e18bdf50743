"""Read tables (CSV, JSON, Parquet): every row in its place, or an error that names the line."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vididi_hf.files import printable

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
VIDEO, FILE_NAME, LABEL, SPLIT = "video", "file_name", "label", "split"


def read_table(path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """Reads the columns by name, and the place of each row for messages. CSV values are stripped text but for paths."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        parquet = pq.read_table(path)
        names = [_column_name(name) for name in parquet.column_names]
        columns = [column.to_pylist() for column in parquet.columns]
        places = [f"row {row + 1}" for row in range(len(parquet))]
    elif suffix in (".json", ".jsonl"):
        rows = [({_column_name(name): value for name, value in row.items()}, place) for row, place in _json_rows(path)]
        names = list(dict.fromkeys(name for row, _ in rows for name in row))
        columns = [[row.get(name) for row, _ in rows] for name in names]
        places = [place for _, place in rows]
    else:
        lines = csv_lines(path)
        _, header = next(lines, ("", []))
        names = [_column_name(name) for name in header]
        while names and not names[-1]:
            names.pop()
        if not names:
            raise ValueError(f"{path} cannot be read as a CSV list: it is empty")
        columns, places = [[] for _ in names], []
        for place, row in lines:
            if len(row) < len(names) or any(field.strip() for field in row[len(names) :]):
                fields = f"{len(row)} fields, and the header has {len(names)}"
                raise ValueError(f"{path}, {place} has {fields}; put values that contain the separator in quotes")
            for name, column, value in zip(names, columns, row):
                column.append(value if name in (VIDEO, FILE_NAME) else _utf8(path, place, value.strip()))
            places.append(place)
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"{path} has two columns {printable(twice[0])!r}")
    hidden = ("", "__index_level_0__")  # pandas writes its row numbers into them
    return {name: column for name, column in zip(names, columns) if name not in hidden}, places


def csv_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the place and the fields of each line that is not blank, separated by commas, semicolons or tabs."""
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8")
    text = content.decode("utf-8-sig", "surrogateescape")
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    # Strict: otherwise a quote that nobody closes swallows all lines below.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def typed(values: list[str]) -> list[Any]:
    """Returns a column of text as numbers if all its values are numbers.

    Integers with leading zeros or too many digits, and numbers that differ in writing only (1.1 and 1.10), are names.
    """
    with suppress(ValueError):
        if [str(int(value)) for value in values] == values:
            return [int(value) for value in values] if all(abs(int(value)) < 2**63 for value in values) else values
        return values
    with suppress(ValueError):
        numbers = [float(value) for value in values]
        return numbers if len(set(numbers)) == len(set(values)) else values
    return values


def _column_name(name: str) -> str:
    name = name.strip()
    return name.lower() if name.lower() in (VIDEO, FILE_NAME, LABEL, SPLIT) else name


def _utf8(path: Path, place: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}, {place} is not UTF-8: {printable(value)}") from None
    return value


def _json_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a JSON list, or of JSON Lines."""
    text = path.read_text(encoding="utf-8-sig")
    whole = text.lstrip().startswith("[")
    parts = [text] if whole else text.split("\n")
    for line, part in enumerate(parts, 1):
        if part.strip():
            try:
                found = json.loads(part)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}{'' if whole else f', line {line}'} is not JSON: {error}") from None
            for number, row in enumerate(found if whole else [found], 1):
                place = f"entry {number}" if whole else f"line {line}"
                if not isinstance(row, dict):
                    raise ValueError(f"{path}, {place} is not an object with named values")
                yield row, place
