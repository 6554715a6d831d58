"""Reads CSV as raw rows: RFC 4180, with the delimiter of the header line for every row.

Reads a text in UTF-8; returns the header, and rows of the requested columns. Fields are quoted by double quotes, and a quote in a quoted
field is doubled. A row with too many or too few fields is returned as its text, with the reason.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import IO

from batch.file_contents import not_utf8, open_bytes
from infra.errors import InputError

_DELIMITERS = (",", ";", "\t", "|")
#: The limit of a field. Without it a quote that is never closed would read the rest of the file into one field.
_FIELD_BYTES = 16 * 2**20
_CUT_DECIMAL = re.compile(r"[+-]?\d+(\.\d{3})*,\d{1,6}")
csv.field_size_limit(_FIELD_BYTES)


@dataclass(slots=True)
class Row:
    """A row, or a text that could not be read as a row.

    Attributes:
        at: The number of the line in which the row begins.
        values: The texts of the requested columns.
        line: The text if it could not be read as a row.
        misfit: The reason why the text is not a row.
    """

    at: int
    values: list[str | None] = field(default_factory=list)
    line: str | None = None
    misfit: str | None = None


class CsvFile:
    """A CSV file whose header has been read.

    Args:
        path: The file, also .gz.
        delimiter: The delimiter; None for the delimiter of the header line.
        wanted: Columns that the header should have. If several delimiters are possible, the delimiter that cuts out most of these columns is taken.

    Raises:
        InputError: The delimiter is not clear, or the file is not text in UTF-8.

    Attributes:
        header: The names of the columns, stripped; empty for an empty file.
        delimiter: The delimiter.
        why: How the delimiter was chosen.
    """

    def __init__(self, path: Path, delimiter: str | None, wanted: Sequence[str]) -> None:
        self._path = path
        with self._open() as handle:
            first = self._line(handle)
            # Excel writes the delimiter into a line before the header.
            named = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))
            self._named = bool(named)
            line = self._line(handle) if named else first
        self.why = "--delimiter" if delimiter else "from the line sep=" if named else "from the header line"
        self.delimiter = delimiter or (named[1] if named else _delimiter(path, line, wanted))
        records = self._records()
        fields, *_ = next(records, ([], 1, ""))
        if isinstance(fields, str):
            raise InputError(f"The header line of {path} cannot be read: {fields}.", "Repair the file; nothing was loaded.")
        self.header = [name.strip() for name in fields]

    def rows(self, columns: Sequence[int], decimals: Sequence[int] = ()) -> Iterator[Row]:
        """Yields the rows, with the stripped fields of the columns.

        Args:
            columns: The places of the columns in the header.
            decimals: The places of the columns whose decimals have a comma. If the comma is also the delimiter and the decimals are not quoted,
                the two parts of a decimal are joined, provided that there is only one way to do so.
        """
        width, records = len(self.header), self._records()
        next(records, None)
        for record, at, text in records:
            if decimals and self.delimiter == "," and not isinstance(record, str) and len(record) > width:
                record = joined_decimals(record, width, sorted(decimals)) or record
            if isinstance(record, str):
                yield Row(at, line=text, misfit=record)
            elif len(record) != width:
                yield Row(at, line=text, misfit=f"the row has {len(record)} fields, the header has {width}")
            else:
                yield Row(at, [record[index].strip() for index in columns])

    def _records(self) -> Iterator[tuple[list[str] | str, int, str]]:
        """Yields for each row its fields, or the reason why it has no fields; the line in which it begins; and its text."""
        with self._open() as handle:
            taken: list[str] = []

            def lines() -> Iterator[str]:
                for line in handle:
                    taken.append(line)
                    yield line

            at = 1
            if self._named:
                self._line(handle)
                at += 1
            reader = csv.reader(lines(), delimiter=self.delimiter, strict=True, skipinitialspace=True)
            while True:
                try:
                    record: list[str] | str = next(reader)
                except StopIteration:
                    return
                except UnicodeDecodeError:
                    raise not_utf8(self._path) from None
                except csv.Error as error:
                    if "unexpected end" in str(error) or "field larger" in str(error):
                        raise InputError(
                            f"The file {self._path} cannot be read to its end: a quote that opens in line {at} is not closed.",
                            "Repair the file; nothing was loaded.",
                        ) from None
                    record = (
                        "there is text behind a closing quote: a quote in a quoted field is doubled, not escaped by a backslash"
                    )
                if record:
                    yield record, at, "".join(taken).rstrip("\r\n")
                at += len(taken)
                taken.clear()

    def _line(self, handle: IO[str]) -> str:
        try:
            line = handle.readline(_FIELD_BYTES)
        except UnicodeDecodeError:
            raise not_utf8(self._path) from None
        if "\0" in line:
            raise not_utf8(self._path)
        return line

    def _open(self) -> IO[str]:
        # utf-8-sig keeps a byte order mark out of the first name; newline="" leaves the line ends to the CSV reader.
        return io.TextIOWrapper(open_bytes(self._path), encoding="utf-8-sig", newline="")


def joined_decimals(record: list[str], width: int, decimals: Sequence[int]) -> list[str] | None:
    """Returns the fields of a row as `width` fields, by joining decimals that commas have cut in two; None if there is no way to do so, or several.

    Args:
        record: The fields, more than `width`.
        width: The number of columns.
        decimals: The places of the columns that may be cut, ascending.
    """
    ways = []
    for cut in combinations(decimals, len(record) - width):
        fields = list(record)
        for place in cut:  # ascending: after the joins before it, a place in the header is also the place in `fields`
            decimal = ",".join(part.strip() for part in fields[place : place + 2])
            if not _CUT_DECIMAL.fullmatch(decimal):
                break
            fields[place : place + 2] = [decimal]
        else:
            ways.append(fields)
    return ways[0] if len(ways) == 1 else None


def _delimiter(path: Path, line: str, wanted: Sequence[str]) -> str:
    bare = re.sub(r'"[^"]*"', "", line)
    present = [mark for mark in _DELIMITERS if mark in bare]
    if len(present) > 1:
        headers = {mark: {name.strip() for name in next(csv.reader([line], delimiter=mark))} for mark in present}
        fitting = {mark: len(names & set(wanted)) for mark, names in headers.items()}
        best = max(fitting.values())
        present = [mark for mark in present if fitting[mark] == best]
    if len(present) > 1:
        marks = " and ".join(map(repr, present))
        raise InputError(f"The header line of {path} can be cut at {marks}.", "Name the delimiter, such as by --delimiter ';'.")
    return present[0] if present else ","
