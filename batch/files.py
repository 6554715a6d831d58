"""Reads a file as raw rows of the event contract: CSV, JSON or Parquet, also larger than the memory.

Reads a file, a mapping and options; decides on one reading per column from the whole file, or refuses the file with an error that names
the option to set. CSV and Parquet become rows with the contract's columns as texts, for `features.judgement.row_projections`. JSON without
a mapping and without options becomes messages with the bytes of the file, for `message_projections`, so they are judged like the messages
of Kafka. docs/loading.md describes the rules.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from batch.file_contents import other_content
from batch.quoted import name_sql, text_sql
from batch.spool import NUMBERS, Spool, is_literal, spool_csv, spool_json, view_parquet
from batch.times import TIME, TIME_MISFIT, TimeColumn, read_times
from features.judgement import MISFIT
from features.sources import EventSource
from infra.errors import InputError

#: Texts that exporters write for a missing value in a CSV. An empty field is always a missing value.
NULLS = (
    "NULL", "null", "Null", "(null)", "(NULL)", "[NULL]", "<null>", r"\N", "NaN", "nan", "-nan", "NaT", "None", "<NA>", "N/A", "n/a", "#N/A",
)  # fmt: skip

#: A number with an optional decimal comma, and with points or blanks between thousands.
_COMMA = r"[+-]?(\d+|\d{1,3}(\.\d{3})+|\d{1,3}([ \x{A0}\x{202F}]\d{3})+)(,\d+)?"
#: A number that certainly has a decimal comma: the digits after the comma are no group of thousands, or points between thousands precede the comma.
_SURELY_COMMA = r"[+-]?(\d+,(\d{1,2}|\d{4,})|\d{1,3}(\.\d{3})+,\d+)"
#: A number whose points separate thousands if the comma is the decimal sign.
_POINT_OR_THOUSANDS = r"[+-]?\d{1,3}(\.\d{3})+"
_GROUPING = r"[. \x{A0}\x{202F}]"
_ID = '"braid: id"'


@dataclass(frozen=True)
class ReadOptions:
    """The options for reading a file that can be read in several ways.

    Attributes:
        time_zone: The zone of times without an offset; None is UTC.
        time_format: One of `batch.times.TIME_FORMATS`, or a format of strptime; None to decide by the column.
        day_first: Whether 01/02/2026 is the first of February; None to decide by the column.
        nulls: Texts that stand for a missing value; None for `NULLS` in CSV and for no text elsewhere.
        decimal_comma: Whether 12,50 is twelve and a half.
        delimiter: The delimiter of a CSV; None for the delimiter of the header line.
    """

    time_zone: str | None = None
    time_format: str | None = None
    day_first: bool | None = None
    nulls: tuple[str, ...] | None = None
    decimal_comma: bool = False
    delimiter: str | None = None

    @property
    def zone(self) -> str:
        """The zone of times without an offset."""
        return self.time_zone or "UTC"

    @property
    def translates(self) -> bool:
        """Whether an option changes the reading of JSON, so that the file's messages cannot be used unchanged."""
        return self != ReadOptions(delimiter=self.delimiter)


@dataclass(frozen=True)
class ColumnReading:
    """How a column of the contract is read.

    Attributes:
        column: The column of the contract.
        source: The column of the file, or a literal.
        as_what: The reading, in words.
        why: How the reading was chosen.
        nulls: The number of texts that stand for a missing value.
    """

    column: str
    source: str
    as_what: str
    why: str = ""
    nulls: int = 0


@contextmanager
def open_events(
    path: Path,
    source: EventSource,
    mapping: Mapping[str, str] | None = None,
    options: ReadOptions | None = None,
    correctable: str | None = None,
) -> Iterator[EventFile]:
    """Opens a file for reading its rows as the source's raw columns. The file is closed at the end of the block.

    Args:
        path: A file that ends in .csv, .tsv, .txt, .json, .jsonl, .ndjson (each also .gz), .parquet or .pq.
        source: The contract.
        mapping: Contract column → column of the file, or a literal in single quotes. A column with the same name needs no mapping.
        options: The options for a file that can be read in several ways.
        correctable: A column whose value may be corrected by a later file; None for no column.

    Raises:
        InputError: The file or the mapping cannot be used, or a column can be read in several ways.
    """
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, not a file.",
            f'Load its files one by one, such as by `for f in {path}/part-*; do braid load "$f"; done`.',
        )
    if not path.is_file():
        raise InputError(f"The file {path} does not exist.", "Check the path.")
    options = options or ReadOptions()
    with (
        tempfile.TemporaryDirectory() as scratch,
        duckdb.connect(config={"temp_directory": scratch, "memory_limit": "2GB"}) as connection,
    ):
        try:
            connection.execute("SET TimeZone = 'UTC'").fetchall()
            connection.execute(f"SELECT TIMESTAMP '2000-01-01' AT TIME ZONE {text_sql(options.zone)}").fetchall()
            # DuckDB also accepts ambiguous short names and chooses a zone itself: Bangladesh for BST, Alaska for AST.
            if "/" not in options.zone:
                ZoneInfo(options.zone.upper() if options.zone.upper() in ("UTC", "GMT") else options.zone)
        except (duckdb.Error, KeyError, ValueError, OSError):
            raise InputError(
                f"The time zone {options.zone!r} is unknown.", "Use a name such as 'UTC' or 'Europe/Berlin'."
            ) from None
        yield EventFile(connection, path, Path(scratch), source, dict(mapping or {}), options, correctable)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns the exceptions of a broken file into an `InputError`."""
    try:
        yield
    except (duckdb.Error, OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise InputError(
            f"The file {path} cannot be read to its end: {str(error).splitlines()[0]}.", "Repair the file; nothing was loaded."
        ) from None


class EventFile:
    """A file that is open for reading, made by `open_events`.

    Attributes:
        path: The file.
        dialect: The format of the file, in words.
        readings: How each column of the contract is read.
        has_messages: Whether the rows are messages (`MESSAGE`, binary) rather than the contract's columns.
        correctable: The column whose value may be corrected by a later file; None for no column.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, scratch: Path, source: EventSource, mapping: dict[str, str],
        options: ReadOptions, correctable: str | None,
    ) -> None:  # fmt: skip
        self.path, self.readings, self.correctable = path, list[ColumnReading](), correctable
        self._connection, self._source, self._options = connection, source, options
        with _whole(path):
            spool = self._spool(path, scratch, mapping)
            self.dialect, self.has_messages = spool.dialect, spool.messages
            self._rows_sql = self._rows(spool)

    def _spool(self, path: Path, scratch: Path, mapping: dict[str, str]) -> Spool:
        source, options = self._source, self._options
        suffix = next((s for s in map(str.lower, reversed(path.suffixes)) if s != ".gz"), "")
        if suffix in (".csv", ".tsv", ".txt"):
            delimiter = options.delimiter or ("\t" if suffix == ".tsv" else None)
            return spool_csv(path, scratch, source, mapping, delimiter, options.decimal_comma)
        if suffix in (".json", ".jsonl", ".ndjson"):
            return spool_json(path, scratch, source, mapping, options.translates)
        if suffix in (".parquet", ".pq"):
            return view_parquet(self._connection, path, scratch, source, mapping)
        raise other_content(path) or InputError(
            f"The format of the file {path} is unknown.", "Use a .csv, .jsonl or .parquet file."
        )

    def write_parquet(self, target: Path) -> int:
        """Writes the rows to one Parquet file and returns their number."""
        copy = f"COPY (SELECT * FROM {self._rows_sql}) TO {text_sql(str(target))} (FORMAT parquet, COMPRESSION zstd)"
        with _whole(self.path):
            [(count,)] = self._connection.execute(copy).fetchall()
            return int(count)

    def batches(self, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
        """Yields the rows in the order of their time, in batches of at most `rows`. Rows without a time come first."""
        time = f"try_cast({name_sql(self._source.time)} AS TIMESTAMPTZ)"
        query = f"SELECT * FROM {self._rows_sql} ORDER BY {time} NULLS FIRST, _row"
        with _whole(self.path):
            yield from self._connection.sql(query).to_arrow_reader(rows)

    def _rows(self, spool: Spool) -> str:
        """Returns SQL for the rows that were read: the contract's columns, `_row`, `_line` and `MISFIT`; or messages. Sets `readings`."""
        origins, options, time = spool.origins, self._options, self._source.time
        if spool.messages:
            self.readings = [ColumnReading(name, name, "as in a message of Kafka", "no mapping, no option") for name in origins]
            return spool.relation
        nulls = options.nulls if options.nulls is not None else NULLS if spool.dialect.startswith("CSV") else ()
        counts, commas = self._counts(spool, nulls), self._comma_columns(spool)
        raw = f"(SELECT *, {self._derived_id(origins)} AS {_ID} FROM {spool.relation})"
        values, misfits = {}, [MISFIT]
        for column in self._source.columns:
            value = name_sql(column.name)
            if column.name not in origins:
                values[column.name] = _ID if column.name == self._source.event_id and origins else "NULL::VARCHAR"
                continue
            if nulls or spool.dialect.startswith("CSV"):
                value = f"CASE WHEN {value} NOT IN ({', '.join(map(text_sql, ('', *nulls)))}) THEN {value} END"
            as_what, why = column.type.name.lower(), ""
            if column.type in NUMBERS and options.decimal_comma and column.name not in spool.typed:
                number = f"regexp_full_match({value}, {text_sql(_COMMA)})"
                misfits.append(
                    f"CASE WHEN NOT {number} THEN concat({text_sql(f'{column.name} has no decimal comma: ')}, {value}) END"
                )
                digits = f"regexp_replace({value}, {text_sql(_GROUPING)}, '', 'g')"
                value = f"CASE WHEN {number} THEN replace({digits}, ',', '.') ELSE {value} END"
                as_what, why = f"{as_what} with a comma", "--decimal-comma"
            elif column.name in commas:
                unclear = f"{column.name} may have a point between thousands, because other values have a decimal comma: "
                thousands = f"regexp_full_match({value}, {text_sql(_POINT_OR_THOUSANDS)})"
                misfits.append(f"CASE WHEN {thousands} THEN concat({text_sql(unclear)}, {value}) END")
                why = f"other values have a decimal comma, such as {commas[column.name]!r}: choose --decimal-comma"
            values[column.name] = value
            self.readings.append(ColumnReading(column.name, origins[column.name], as_what, why, counts.get(column.name, 0)))
        columns = ", ".join(f"{sql} AS {name_sql(name)}" for name, sql in values.items())
        relation = f"(SELECT {columns}, _row, _at, _line, coalesce({', '.join(misfits)}) AS {MISFIT} FROM {raw})"
        if time in origins:
            relation = self._read_time(spool, relation)
        return f"(SELECT * EXCLUDE (_at) FROM {relation})"

    def _read_time(self, spool: Spool, relation: str) -> str:
        """Returns the relation with its times as RFC 3339, and adds how they are read to `readings`."""
        options, time = self._options, self._source.time
        column = TimeColumn(self._connection, relation, time, spool.place, options.zone)
        # A typed time needs no option, so the options do not apply to it.
        reading = read_times(column) if time in spool.typed else read_times(column, options.time_format, options.day_first)
        self.readings = [
            replace(column_reading, as_what=reading.as_what, why=reading.why) if column_reading.column == time else column_reading
            for column_reading in self.readings
        ]
        others = f"SELECT * REPLACE ({TIME} AS {name_sql(time)}, coalesce({MISFIT}, {TIME_MISFIT}) AS {MISFIT})"
        return f"(SELECT * EXCLUDE ({TIME}, {TIME_MISFIT}) FROM ({others} FROM {reading.relation}))"

    def _counts(self, spool: Spool, nulls: tuple[str, ...]) -> dict[str, int]:
        """Returns the number of texts that stand for a missing value, by column."""
        names = [name for name, origin in spool.origins.items() if not is_literal(origin)]
        if not nulls or not names:
            return {}
        counts = ", ".join(f"count(*) FILTER ({name_sql(name)} IN ({', '.join(map(text_sql, nulls))}))" for name in names)
        [row] = self._connection.execute(f"SELECT {counts} FROM {spool.relation}").fetchall()
        return dict(zip(names, row, strict=True))

    def _comma_columns(self, spool: Spool) -> dict[str, str]:
        """Returns the columns of numbers in which a value certainly has a decimal comma that no option declares, each with such a value."""
        names = [column.name for column in self._source.columns if column.type in NUMBERS and column.name in spool.origins]
        if self._options.decimal_comma or spool.dialect == "Parquet" or not names:
            return {}
        examples = ", ".join(
            f"min({name}) FILTER (regexp_full_match({name}, {text_sql(_SURELY_COMMA)}))" for name in map(name_sql, names)
        )
        [row] = self._connection.execute(f"SELECT {examples} FROM {spool.relation}").fetchall()
        return {name: example for name, example in zip(names, row, strict=True) if example is not None}

    def _derived_id(self, origins: Mapping[str, str]) -> str:
        """Returns SQL for the event id in a file without ids: the hash of the contract's columns, and a number among equal rows.

        So a second load, or a later delivery that contains the same rows, adds no event twice. A column that the file does not have counts as
        a column without values, because a day of JSON may lack a key that a later delivery of the same day has. The column that may be corrected
        is left out, so that a row has the same id before and after a correction.
        """
        if self._source.event_id in origins or not origins:
            return "NULL::VARCHAR"
        names = [column.name for column in self._source.columns if column.name not in (self._source.event_id, self.correctable)]
        texts = [f"coalesce(nullif({name_sql(name)}, ''), chr(30))" if name in origins else "chr(30)" for name in names]
        content = f"md5(concat_ws(chr(31), {', '.join(texts)}))"
        return f"{content} || '-' || row_number() OVER (PARTITION BY {content}, _line IS NULL ORDER BY _row)"
