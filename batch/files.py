"""Anyone's file to raw rows in the event contract: CSV, JSON lines or Parquet, by DuckDB, also beyond memory.

Reads a file and a mapping; gives rows whose columns are the contract's, all text, so that the contract in `features.sources` can
judge them the same way as a Kafka message. Times are written as RFC 3339; one that cannot be read stays as it is, to be refused
there with a reason. Two columns are added: `_row`, the row's number in the file, and `_line`, the text of a row that is no row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from features.sources import Column, ColumnType, EventSource
from infra.errors import InputError

_RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)"
#: Names of braid's own beside the columns of a file, which may well have a `_row` or a `_line`.
_OWN_ROW, _OWN_LINE = '"braid: row"', '"braid: line"'
_OTHER_TIMES = ["%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%m/%d/%Y", "%d.%m.%Y", "%Y%m%d"]


@contextmanager
def open_events(
    path: Path, source: EventSource, mapping: Mapping[str, str] | None = None, time_zone: str = "UTC"
) -> Iterator[EventFile]:
    """The rows of a file as the source's raw columns.

    Args:
        path: .csv, .tsv, .json, .jsonl, .ndjson (each also .gz), .parquet.
        source: The contract.
        mapping: Contract column → column of the file, or a literal in single quotes. Columns of the same name need none.
        time_zone: Of times without an offset.

    Raises:
        InputError: The file or the mapping cannot be used.
    """
    if not path.is_file():
        raise InputError(f"The file {path} does not exist.", "Check the path.")
    with (
        tempfile.TemporaryDirectory() as spill,
        duckdb.connect(config={"temp_directory": spill, "memory_limit": "2GB"}) as connection,
    ):
        try:
            connection.execute("SET TimeZone = 'UTC'").fetchall()
            connection.execute(f"SELECT TIMESTAMP '2000-01-01' AT TIME ZONE {_text(time_zone)}").fetchall()
        except duckdb.Error:
            raise InputError(f"The time zone {time_zone!r} is unknown.", "Use a name such as 'UTC' or 'Europe/Berlin'.") from None
        yield EventFile(connection, path, source, dict(mapping or {}), time_zone)


class EventFile:
    """A file that is open for reading. `open_events` makes it."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, source: EventSource, mapping: dict[str, str], time_zone: str
    ) -> None:
        self._connection, self._path, self._source, self._zone = connection, path, source, time_zone
        try:
            self._read_sql, self._types = self._reader()
        except duckdb.Error as error:
            raise self._refusal(error, "cannot be read", "Give CSV, JSON lines or Parquet.") from None
        self._select_sql = self._select(mapping)

    def write_parquet(self, target: Path) -> int:
        """Writes the rows to one Parquet file and gives their number. Raises InputError where the file breaks off."""
        return self._run(f"COPY ({self._select_sql}) TO {_text(str(target))} (FORMAT parquet, COMPRESSION zstd)").fetchone()[0]  # type: ignore[index]

    def batches(self, rows: int = 10_000) -> Iterator[pa.RecordBatch]:
        """The rows in the order of their time; those without one come first."""
        time = f'"{self._source.time}"'
        query = f"SELECT * FROM ({self._select_sql}) ORDER BY try_cast({time} AS TIMESTAMPTZ) NULLS FIRST, _row"
        try:
            yield from self._connection.sql(query).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise self._broken(error) from None

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(sql)
        except duckdb.Error as error:
            raise self._broken(error) from None

    def _broken(self, error: duckdb.Error) -> InputError:
        return self._refusal(error, "cannot be read to its end", "Repair the file; nothing was loaded.")

    def _refusal(self, error: duckdb.Error, what: str, cure: str) -> InputError:
        if "not utf-8 encoded" in str(error):
            # To guess the encoding would load wrong letters without a word.
            return InputError(f"The file {self._path} is not text in UTF-8.", "Convert it, such as by `iconv -f LATIN1 -t UTF-8`.")
        return InputError(f"The file {self._path} {what}: {str(error).splitlines()[0]}.", cure)

    def _reader(self) -> tuple[str, dict[str, str]]:
        """The SQL that reads the file, with a column `_OWN_LINE`, and the types of its columns."""
        path = _text(str(self._path))
        suffix = next((s for s in reversed(self._path.suffixes) if s != ".gz"), "").lower()
        if suffix in (".csv", ".tsv", ".txt"):
            if self._path.stat().st_size == 0:
                return f"SELECT NULL AS {_OWN_LINE} WHERE false", {}
            # The parallel reader refuses padded rows in a file with quoted line breaks; the sequential one is a fifth slower.
            read = (
                f"SELECT *, NULL::VARCHAR AS {_OWN_LINE} FROM read_csv({path}, all_varchar = true, header = true, "
                "null_padding = true, strict_mode = false, parallel = false)"
            )
        elif suffix in (".json", ".jsonl", ".ndjson"):
            # Line by line as text: a line that is no JSON is a misfit of its own, not the end of the file.
            lines = (
                f"read_csv({path}, columns = {{'line': 'VARCHAR'}}, delim = chr(1), quote = '', escape = '', header = false, "
                "auto_detect = false, max_line_size = 16777216)"
            )
            keys = self._connection.execute(
                f"SELECT DISTINCT unnest(json_keys(line)) FROM {lines} WHERE json_valid(line) AND json_type(line) = 'OBJECT'"
            ).fetchall()
            # In one order always, for derived ids depend on it. Names that differ by case alone are one to DuckDB: ours come first.
            names = sorted((name for (name,) in keys), key=lambda name: (self._source.column(name) is None, name))
            fields = ", ".join(
                f"json_extract_string(o, {_text(chr(36) + '.' + _json_key(name))}) AS {_name(name)}" for name in names
            )
            read = (
                f"SELECT {fields}{',' if fields else ''} CASE WHEN o IS NULL THEN line END AS {_OWN_LINE} FROM (SELECT line, "
                f"CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT' THEN line END AS o FROM {lines} WHERE trim(line) <> '')"
            )
        elif suffix in (".parquet", ".pq"):
            read = f"SELECT *, NULL::VARCHAR AS {_OWN_LINE} FROM read_parquet({path})"
        else:
            raise InputError(f"The file {self._path} is of no known kind.", "Give .csv, .jsonl or .parquet.")
        types = {name: kind for name, kind, *_ in self._connection.execute(f"DESCRIBE {read}").fetchall()}
        types.pop(_OWN_LINE.strip('"'), None)
        return read, types

    def _select(self, mapping: dict[str, str]) -> str:
        known = {column.name for column in self._source.columns}
        for name, given in mapping.items():
            if name not in known:
                raise InputError(
                    f"The mapping names {name!r}, which is no column of {self._source.name}.",
                    f"Its columns are: {', '.join(sorted(known))}.",
                )
            if not _is_literal(given) and given not in self._types:
                raise InputError(f"The file has no column {given!r}.", f"Its columns are: {', '.join(self._types) or 'none'}.")
        missing = [
            column.name for column in self._source.columns
            if column.required and column.name != self._source.event_id and column.name not in mapping and column.name not in self._types
        ]  # fmt: skip
        if missing and self._types:
            raise InputError(
                f"The file {self._path.name} has no column for {', '.join(missing)}.",
                f"Map it, such as --map {missing[0]}=COLUMN or --map \"{missing[0]}='VALUE'\"; the file has: {', '.join(self._types)}.",
            )
        parts = [f"{self._expression(column, mapping)} AS {_name(column.name)}" for column in self._source.columns]
        own = f"{_OWN_ROW} AS _row, {_OWN_LINE} AS _line"
        return f"SELECT {', '.join(parts)}, {own} FROM (SELECT *, row_number() OVER () AS {_OWN_ROW} FROM ({self._read_sql}))"

    def _expression(self, column: Column, mapping: dict[str, str]) -> str:
        given = mapping.get(column.name, column.name)
        if _is_literal(given):
            return _text(given[1:-1])
        if given not in self._types:
            if column.name == self._source.event_id and self._types:
                return self._derived_id()
            return f"NULL::{'MAP(VARCHAR, VARCHAR)' if column.type is ColumnType.MAP else 'VARCHAR'}"
        name, kind = _name(given), self._types[given]
        if column.type is ColumnType.MAP:
            return (
                f"try_cast({name} AS MAP(VARCHAR, VARCHAR))"
                if kind != "VARCHAR"
                else f"try_cast(try_cast({name} AS JSON) AS MAP(VARCHAR, VARCHAR))"
            )
        if column.type is ColumnType.TIMESTAMP:
            return self._time(name, kind)
        return f"CAST({name} AS VARCHAR)"

    def _time(self, name: str, kind: str) -> str:
        zone = _text(self._zone)

        def rfc3339(instant: str) -> str:
            return f"strftime({instant} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"

        if kind == "TIMESTAMP WITH TIME ZONE":
            return rfc3339(name)
        if kind.startswith("TIMESTAMP") or kind == "DATE":
            return rfc3339(f"({name}::TIMESTAMP AT TIME ZONE {zone})")
        text = f"trim(CAST({name} AS VARCHAR))"
        seconds = rfc3339(f"to_timestamp(try_cast({text} AS BIGINT))")
        milliseconds = rfc3339(f"to_timestamp(try_cast({text} AS BIGINT) / 1000)")
        others = f"try_strptime({text}, [{', '.join(map(_text, _OTHER_TIMES))}])"
        return (
            f"CASE WHEN regexp_full_match({text}, {_text(_RFC3339)}) THEN {text} "
            f"WHEN regexp_full_match({text}, '\\d{{10}}') THEN {seconds} WHEN regexp_full_match({text}, '\\d{{13}}') THEN {milliseconds} "
            f"WHEN regexp_matches({text}, ':\\d\\d.*([Zz]|[+-]\\d\\d(:?\\d\\d)?)$') AND try_cast({text} AS TIMESTAMPTZ) IS NOT NULL "
            f"THEN {rfc3339(f'try_cast({text} AS TIMESTAMPTZ)')} "
            f"ELSE coalesce({rfc3339(f'(coalesce({others}, try_cast({text} AS TIMESTAMP)) AT TIME ZONE {zone})')}, {text}) END"
        )

    def _derived_id(self) -> str:
        """Of a file without ids: the hash of the row and its number among equal rows, so that a second load adds nothing."""
        content = (
            f"md5(concat_ws(chr(31), {', '.join(f'coalesce(CAST({_name(name)} AS VARCHAR), chr(30))' for name in self._types)}))"
        )
        return f"{content} || '-' || row_number() OVER (PARTITION BY {content} ORDER BY {_OWN_ROW})"


def _is_literal(given: str) -> bool:
    return len(given) >= 2 and given[0] == given[-1] == "'"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _json_key(name: str) -> str:
    return '"' + name.replace('"', '\\"') + '"'
