"""CSV → raw rows: RFC 4180 with the dialect that the header line shows, the same for every row.

Reads a text in UTF-8; gives the header, and rows of the columns that are asked for. The delimiter is the one that the header has;
quotes are double ones, and a quote in a quoted field is doubled. A row with a field too many or too few is no row: it is given as
its text with the reason.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from infra.errors import InputError

_DELIMITERS = (",", ";", "\t", "|")
#: A quote that is never closed would take the rest of the file into one field.
_FIELD_BYTES = 16 * 2**20
csv.field_size_limit(_FIELD_BYTES)


@dataclass(slots=True)
class Row:
    """A row, or a text that is none.

    Attributes:
        at: The line in which it begins.
        values: Texts of the columns that were asked for.
        line: The text of what is no row.
        misfit: Why it is none.
    """

    at: int
    values: list[str | None] = field(default_factory=list)
    line: str | None = None
    misfit: str | None = None


class CsvFile:
    """A CSV file of which the header is read.

    Args:
        path: The file, also .gz.
        delimiter: None for the one that the header line shows.
        wanted: Columns that the header should have: they decide where the line has several delimiters.

    Raises:
        InputError: The dialect is not clear, or the file is not text in UTF-8.

    Attributes:
        header: The columns' names, without blanks around them; empty where the file is.
        delimiter: The delimiter.
        why: What decided it.
    """

    def __init__(self, path: Path, delimiter: str | None, wanted: Sequence[str]) -> None:
        self._path = path
        with self._open() as handle:
            first = self._line(handle)
            # Excel writes the delimiter into a line of its own.
            named = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))
            self._named = bool(named)
            line = self._line(handle) if named else first
        self.why = "--delimiter" if delimiter else "the line sep= says so" if named else "the header line has it"
        self.delimiter = delimiter or (named[1] if named else _delimiter(path, line, wanted))
        records = self._records()
        fields, *_ = next(records, ([], 1, ""))
        if isinstance(fields, str):
            raise InputError(f"The header line of {path} cannot be read: {fields}.", "Repair the file; nothing was loaded.")
        self.header = [name.strip() for name in fields]

    def rows(self, columns: Sequence[int]) -> Iterator[Row]:
        """The rows, with the fields of the columns: no blanks around them."""
        width, records = len(self.header), self._records()
        next(records, None)
        for record, at, text in records:
            if isinstance(record, str):
                yield Row(at, line=text, misfit=record)
            elif len(record) != width:
                yield Row(at, line=text, misfit=f"the row has {len(record)} fields, the header has {width}")
            else:
                yield Row(at, [record[index].strip() for index in columns])

    def _records(self) -> Iterator[tuple[list[str] | str, int, str]]:
        """Fields, or the reason why there are none; the line in which they begin; the text."""
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
                    record = "there is text behind a closing quote: a quote in a quoted field is doubled"
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
        # A byte order mark belongs to the file, not to the first name; line ends are the CSV reader's.
        if self._path.suffix == ".gz":
            return gzip.open(self._path, "rt", encoding="utf-8-sig", newline="")
        return self._path.open(encoding="utf-8-sig", newline="")


def not_utf8(path: Path) -> InputError:
    """The refusal of a file in another encoding: to guess it would load wrong letters."""
    return InputError(f"The file {path} is not text in UTF-8.", "Convert it, such as by `iconv -f LATIN1 -t UTF-8`.")


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
        raise InputError(f"The header line of {path} can be cut at {marks}.", "Say which one it is, such as by --delimiter ';'.")
    return present[0] if present else ","
