"""Makes a relation of DuckDB from a file, with the contract's columns as the texts of the file.

Reads CSV, JSON and Parquet by a mapping. Besides the columns, the relation has the number of each row (`_row`), its place in the file (`_at`), and
for a text that is not a row the text (`_line`) and the reason (`MISFIT`). The objects of JSON stay messages if there is no mapping.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb.sqltypes import DuckDBPyType

from batch.csv_rows import CsvFile, Row
from batch.json_messages import document_of, messages_of_file
from batch.quoted import name_sql, text_sql
from features.judgement import MISFIT
from features.sources import Column, ColumnType, EventSource
from infra.errors import InputError

#: The columns of a file of messages: the bytes of a message, and its key as text. A third column is the source's time as text.
MESSAGE, KEY = "_message", "_key"
#: The types of numbers.
NUMBERS = (ColumnType.INT64, ColumnType.DECIMAL)
_BATCH_ROWS = 20_000
#: The digits of the largest decimal of DuckDB. DuckDB reads decimals with more digits as floating-point numbers.
_DECIMAL_DIGITS = 38
#: Types of floating-point numbers → the number from which integers may be rounded.
_EXACT_BELOW = {"DOUBLE": 2**53, "FLOAT": 2**24}


@dataclass(frozen=True)
class Spool:
    """A file that was read.

    Attributes:
        relation: SQL for a FROM clause.
        origins: Contract column → column of the file, or a literal; a column without either is absent.
        place: The unit of `_at`: "line" or "row".
        dialect: The format of the file, in words.
        messages: Whether the rows are messages, with the columns `MESSAGE`, `KEY`, the source's time and `_row`.
        typed: Contract columns of times and numbers whose values in the file have such a type, so that no option applies to them.
    """

    relation: str
    origins: Mapping[str, str]
    place: str = "line"
    dialect: str = ""
    messages: bool = False
    typed: frozenset[str] = field(default_factory=frozenset)


def spool_csv(
    path: Path, scratch: Path, source: EventSource, mapping: Mapping[str, str], delimiter: str | None, decimal_comma: bool
) -> Spool:
    """Reads a CSV file.

    Args:
        path: The file.
        scratch: A folder for the rows.
        source: The contract.
        mapping: Contract column → column of the file, or a literal in single quotes.
        delimiter: The delimiter; None for the delimiter of the header line.
        decimal_comma: Whether the decimals have a comma.

    Raises:
        InputError: The file or the mapping cannot be used.
    """
    names = {column.name for column in source.columns}
    file = CsvFile(path, delimiter, [*names, *mapping.values()])
    origins = _origins(path, source, mapping, file.header)
    columns = {name: origin for name, origin in origins.items() if not is_literal(origin)}
    _check_names(path, file.header, columns.values())
    places = {name: file.header.index(origin) for name, origin in columns.items()}
    decimals = [places[column.name] for column in source.columns if column.type is ColumnType.DECIMAL and column.name in places]
    spooled = _write(scratch, list(columns), file.rows(list(places.values()), decimals if decimal_comma else ()))
    dialect = f"CSV with the delimiter {file.delimiter!r} ({file.why})" if file.header else "CSV without a line"
    return Spool(_with_literals(spooled, origins), origins, dialect=dialect)


def spool_json(path: Path, scratch: Path, source: EventSource, mapping: Mapping[str, str], translated: bool) -> Spool:
    """Reads a JSON file. Its objects become rows if there is a mapping or an option, or if no object has an event id; otherwise they stay messages.

    Args:
        path: The file.
        scratch: A folder for the rows or the messages.
        source: The contract.
        mapping: Contract column → key of the objects, or a literal in single quotes.
        translated: Whether an option changes the reading of values.

    Raises:
        InputError: The file or the mapping cannot be used.
    """
    if not translated and not mapping:
        keys: set[str] = set()
        spooled = _write_messages(scratch, source, path, keys)
        if source.event_id in keys or not keys:
            origins = {column.name: column.name for column in source.columns if column.name in keys}
            if keys:
                _check_any(path, source, keys)
            return Spool(spooled, origins, dialect="JSON, each object a message", messages=True)
    keys = set()
    for _, message in messages_of_file(path):
        keys |= (document_of(message) or {}).keys()
    origins = _origins(path, source, mapping, sorted(keys))
    columns = {name: origin for name, origin in origins.items() if not is_literal(origin)}
    spooled = _write(scratch, list(columns), _json_rows(path, list(columns.values())))
    return Spool(_with_literals(spooled, origins), origins, dialect="JSON, each object a row")


def view_parquet(
    connection: duckdb.DuckDBPyConnection, path: Path, scratch: Path, source: EventSource, mapping: Mapping[str, str]
) -> Spool:
    """Makes a relation over a Parquet file, without a copy of its rows.

    Args:
        connection: The connection that reads the relation.
        path: The file.
        scratch: A folder for a link to the file.
        source: The contract.
        mapping: Contract column → column of the file, or a literal in single quotes.

    Raises:
        InputError: The file or the mapping cannot be used.
    """
    # The link has a plain name, because DuckDB would read brackets in a name as a pattern, and a folder k=v as a column.
    link = scratch / "file.parquet"
    link.symlink_to(path.absolute())
    read = f"read_parquet({text_sql(str(link))}, hive_partitioning = false)"
    schema, described = pq.read_schema(path), connection.sql(f"SELECT * FROM {read}")
    _check_names(path, schema.names, sorted({column.name for column in source.columns} | set(mapping.values())))
    # If names differ only by case, DuckDB renames all except the first.
    types: dict[str, DuckDBPyType] = dict(zip(schema.names, described.types, strict=True))
    in_duckdb = dict(zip(schema.names, described.columns, strict=True))
    origins = _origins(path, source, mapping, list(types))
    values, misfits = [], ["NULL::VARCHAR"]
    for column in source.columns:
        origin = origins.get(column.name, "")
        if origin not in types or is_literal(origin):
            continue
        if getattr(schema.field(origin).type, "precision", 0) > _DECIMAL_DIGITS:
            raise InputError(
                f"The decimals of the column {origin!r} of {path} have more than {_DECIMAL_DIGITS} digits, and would be rounded.",
                f"Write the column as a decimal of at most {_DECIMAL_DIGITS} digits, or as text.",
            )
        text, misfit = _parquet_text(column, name_sql(in_duckdb[origin]), types[origin])
        values.append(f"{text} AS {name_sql(column.name)}")
        misfits += [misfit] if misfit else []
    number = "row_number() OVER ()"
    own = f"{number} AS _row, {number} AS _at, NULL::VARCHAR AS _line, coalesce({', '.join(misfits)}) AS {MISFIT}"
    relation = f"(SELECT {', '.join([*values, own])} FROM {read})"
    kinds = {name: str(types.get(origin, "")) for name, origin in origins.items()}
    typed = {name for name, kind in kinds.items() if kind.startswith(("TIMESTAMP", "DATE"))}
    numbers = {column.name for column in source.columns if column.type in NUMBERS}
    typed |= {name for name in numbers & kinds.keys() if kinds[name] not in ("", "VARCHAR", "BLOB")}
    return Spool(_with_literals(relation, origins), origins, place="row", dialect="Parquet", typed=frozenset(typed))


def is_literal(origin: str) -> bool:
    """Returns whether the origin of a column is a literal in single quotes."""
    return len(origin) >= 2 and origin[0] == origin[-1] == "'"


def _origins(path: Path, source: EventSource, mapping: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
    """Returns the column of the file, or the literal, for each column of the contract that has one.

    A name may differ by case, as in exports of Snowflake and Oracle.

    Raises:
        InputError: The mapping names an unknown column, or a required column has no origin.
    """
    known = [column.name for column in source.columns]
    for name, origin in mapping.items():
        if name not in known:
            raise InputError(
                f"The mapping names {name!r}, which is no column of {source.name}.", f"Its columns are: {', '.join(sorted(known))}."
            )
        if not is_literal(origin) and origin not in present:
            raise InputError(f"The file has no column {origin!r}.", f"Its columns are: {', '.join(present) or 'none'}.")
    alike: dict[str, list[str]] = {}
    for name in present:
        alike.setdefault(name.casefold(), []).append(name)
    origins = {name: mapping.get(name, name) for name in known if name in mapping or name in present}
    for name in known:
        if name not in origins and len(names := alike.get(name.casefold(), [])) == 1 and names[0] not in mapping.values():
            origins[name] = names[0]
    origins = {name: origins[name] for name in known if name in origins}
    missing = [c.name for c in source.columns if c.required and c.name != source.event_id and c.name not in origins]
    if missing and present:
        raise _missing(path, missing, present)
    return origins


def _check_any(path: Path, source: EventSource, present: Collection[str]) -> None:
    """Refuses a file in which no message has a required column, because such a file needs a mapping."""
    required = [column.name for column in source.columns if column.required and column.name != source.event_id]
    if not set(required) & set(present):
        raise _missing(path, required, sorted(present))


def _missing(path: Path, missing: list[str], present: Collection[str]) -> InputError:
    return InputError(
        f"The file {path.name} has no column for {', '.join(missing)}.",
        f"Map it, such as --map {missing[0]}=COLUMN or --map \"{missing[0]}='VALUE'\"; the file has: {', '.join(present)}.",
    )


def _check_names(path: Path, present: Sequence[str], used: Iterable[str]) -> None:
    """Refuses a file in which several columns have the same name, if that name is used."""
    for name in used:
        if present.count(name) > 1:
            raise InputError(f"The file {path} has several columns {name!r}.", "Give each column a name of its own.")


def _parquet_text(column: Column, name: str, kind: DuckDBPyType) -> tuple[str, str | None]:
    """Returns SQL for a column of Parquet as text, and SQL for the reason why a value cannot be read; None if all values can be read."""
    if "BLOB" in str(kind):
        value = _decoded(name, kind)
        text = f"TRY({value if str(kind) == 'BLOB' else f'CAST(to_json({value}) AS VARCHAR)'})"
        return text, f"CASE WHEN {name} IS NOT NULL AND {text} IS NULL THEN {text_sql(f'{column.name} is not text in UTF-8')} END"
    if column.type is ColumnType.MAP and str(kind) != "VARCHAR":
        return f"CAST(to_json({name}) AS VARCHAR)", None
    if str(kind) in _EXACT_BELOW:
        text, misfit = f"CASE WHEN NOT isnan({name}) THEN CAST({name} AS VARCHAR) END", None
        if column.type is ColumnType.INT64:
            rounded = f"{column.name} is a floating-point number whose last digits may be rounded: "
            misfit = f"CASE WHEN NOT isnan({name}) AND abs({name}) >= {_EXACT_BELOW[str(kind)]} THEN concat({text_sql(rounded)}, {name}) END"
        return text, misfit
    return f"CAST({name} AS VARCHAR)", None


def _decoded(value: str, kind: DuckDBPyType, depth: int = 0) -> str:
    """Returns SQL that decodes each BLOB of a value as text, also within lists, structs and maps: ClickHouse and Impala write texts as BLOB."""
    if "BLOB" not in str(kind):
        return value
    if kind.id == "blob":
        return f"decode({value})"
    children: dict[str, Any] = dict(kind.children)
    item = f"item_{depth}"
    if kind.id == "struct":
        fields = ", ".join(
            f"{name_sql(name)} := {_decoded(f'{value}.{name_sql(name)}', child, depth)}" for name, child in children.items()
        )
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({fields}) END"
    if kind.id == "map":
        key, entry = (_decoded(f"{item}.{name}", children[name], depth + 1) for name in ("key", "value"))
        return f"map_from_entries(list_transform(map_entries({value}), lambda {item}: struct_pack(k := {key}, v := {entry})))"
    return f"list_transform({value}, lambda {item}: {_decoded(item, children['child'], depth + 1)})"


def _json_rows(path: Path, columns: list[str]) -> Iterator[Row]:
    for at, message in messages_of_file(path):
        document = document_of(message)
        if document is None:
            text = message.decode(errors="replace")
            yield Row(at, line=text, misfit="the message is not one JSON object of well-formed text")
        else:
            yield Row(at, [_text_of(document.get(name)) for name in columns])


def _text_of(value: msgspec.Raw | None) -> str | None:
    """Returns a JSON value as text: the characters of a string, None for null, and the JSON of any other value."""
    if value is None:
        return None
    written = bytes(value)
    return None if written == b"null" else str(msgspec.json.decode(written)) if written[:1] == b'"' else written.decode()


def _write_messages(scratch: Path, source: EventSource, path: Path, keys: set[str]) -> str:
    """Writes the unchanged messages, adds the keys of their objects to `keys`, and returns SQL for a FROM clause."""
    schema = pa.schema([("_row", pa.int64()), (MESSAGE, pa.binary()), (source.time, pa.string()), (KEY, pa.string())])

    def rows() -> Iterator[tuple[object, ...]]:
        for number, (_, message) in enumerate(messages_of_file(path), start=1):
            document = document_of(message) or {}
            keys.update(document)
            yield number, message, _text_of(document.get(source.time)), _text_of(document.get(source.key))

    return _write_parquet(scratch, schema, rows())


def _write(scratch: Path, names: list[str], rows: Iterable[Row]) -> str:
    own = [("_row", pa.int64()), ("_at", pa.int64()), ("_line", pa.string()), (MISFIT, pa.string())]
    schema = pa.schema([*((name, pa.string()) for name in names), *own])
    nothing = [None] * len(names)
    return _write_parquet(
        scratch,
        schema,
        ((*(row.values or nothing), number, row.at, row.line, row.misfit) for number, row in enumerate(rows, start=1)),
    )


def _write_parquet(scratch: Path, schema: pa.Schema, rows: Iterator[tuple[object, ...]]) -> str:
    target = scratch / f"rows-{len(list(scratch.iterdir()))}.parquet"
    with pq.ParquetWriter(target, schema) as writer:
        while batch := list(islice(rows, _BATCH_ROWS)):
            columns = [pa.array(values, kind) for values, kind in zip(zip(*batch, strict=True), schema.types, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return f"read_parquet({text_sql(str(target))})"


def _with_literals(relation: str, origins: Mapping[str, str]) -> str:
    literals = [f"{text_sql(origin[1:-1])} AS {name_sql(name)}" for name, origin in origins.items() if is_literal(origin)]
    return f"(SELECT {', '.join(['*', *literals])} FROM {relation})"
