"""Sources: the columns of an event and their types, and the SQL that converts and checks a raw value.

Batch and speed share this contract. A raw column is a string, whether it comes from a Kafka message, a CSV file or a Parquet file. The
SQL expressions compute the typed columns of the `events` table, and the reason why a value does not fit. `features.judgement` combines
these expressions into the verdict on a message or a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from features.checks import SourceChecks
from features.errors import DeclarationError
from features.instants import day_start_ms
from features.names import twin_of

MICROS = 1_000_000

#: RFC 3339: a date, a time to the second or finer, and an offset.
RFC3339 = r"^\\d{4}-\\d\\d-\\d\\d[Tt ]\\d\\d:\\d\\d:\\d\\d(\\.\\d{1,9})?([Zz]|[+-]\\d\\d:\\d\\d)$"


#: A name that Spark's SQL reads as one name without quotes.
_COLUMN_NAME = re.compile(r"\w*[A-Za-z_]\w*", re.ASCII)
#: The columns that braid adds to an event: those of the table of events, and those of the verdict, of a file's rows and of the search for copies.
_RESERVED_COLUMNS = re.compile(
    "ts_ms|arrival_ms|origin|kafka_partition|kafka_offset|day|"
    "_(typed_.*|message.*|misfit|reason|corrupt|row|rows|content|line|at|key|order|rank|wide|counts)",
    re.IGNORECASE,
)


class ColumnType(StrEnum):
    """The types of columns, with their names in Spark SQL. A decimal has six decimal places, so it is a whole number of micro-units."""

    STRING = "STRING"
    INT64 = "BIGINT"
    DECIMAL = "DECIMAL(18, 6)"
    TIMESTAMP = "TIMESTAMP"
    MAP = "MAP<STRING, STRING>"


#: Type → what a value of the type is, in words. A text is any value.
EXPECTED = {
    ColumnType.INT64: "a 64-bit integer",
    ColumnType.DECIMAL: "a decimal below 10^12",
    ColumnType.TIMESTAMP: "an RFC 3339 time with an offset",
    ColumnType.MAP: "a JSON object",
}


@dataclass(frozen=True)
class Column:
    """One column of a source.

    Args:
        name: The name.
        type: The type.
        required: Whether a row without a value does not fit.
        allowed: The integers that a column of integers may have; empty where each fits.
    """

    name: str
    type: ColumnType = ColumnType.STRING
    required: bool = False
    allowed: tuple[int, ...] = ()

    @property
    def typed_name(self) -> str:
        """The name of the column that holds the typed value while a row is checked. For a text it is the raw column."""
        return f"`{self.name}`" if self.type is ColumnType.STRING else f"`_typed_{self.name}`"

    def typed_sql(self) -> str:
        """Returns a SQL expression for the typed value of the raw column with this name; it is NULL if the raw value does not fit."""
        raw = f"`{self.name}`"
        if self.type is ColumnType.INT64:
            # Spreadsheets write an integer column with gaps as "17850.0".
            return f"CASE WHEN trim({raw}) RLIKE '^[+-]?\\\\d+(\\\\.0+)?$' THEN try_cast(substring_index(trim({raw}), '.', 1) AS BIGINT) END"
        if self.type is ColumnType.DECIMAL:
            return f"try_cast(bround(try_cast(trim({raw}) AS DECIMAL(38, 18)), 6) AS DECIMAL(18, 6))"
        if self.type is ColumnType.TIMESTAMP:
            return f"CASE WHEN {raw} RLIKE '{RFC3339}' THEN try_cast(upper({raw}) AS TIMESTAMP) END"
        if self.type is ColumnType.MAP:
            # PHP writes an empty map as an empty array.
            empty = rf"{raw} RLIKE r'^\s*\[\s*\]\s*$'"
            return f"CASE WHEN {empty} THEN CAST(map() AS {self.type.value}) ELSE from_json({raw}, '{self.type.value}') END"
        return raw

    def reason_sql(self) -> str | None:
        """Returns the `WHEN … THEN reason` clauses that reject a raw value, over the raw and the typed column; None if every text fits."""
        raw, name, expected = f"`{self.name}`", self.name, EXPECTED.get(self.type)
        parts = []
        if self.required:
            parts.append(f"WHEN {raw} IS NULL OR trim({raw}) = '' THEN '{name} is missing'")
        if expected:
            filled = "" if self.required else f"{raw} IS NOT NULL AND trim({raw}) <> '' AND "
            parts.append(f"WHEN {filled}{self.typed_name} IS NULL THEN concat('{name} is not {expected}: ', left({raw}, 80))")
        if self.allowed:
            other, allowed = ", ".join(map(str, self.allowed)), " or ".join(map(str, self.allowed))
            parts.append(f"WHEN {self.typed_name} NOT IN ({other}) THEN concat('{name} is not {allowed}: ', left({raw}, 80))")
        return " ".join(parts) or None


@dataclass(frozen=True)
class EventSource:
    """A kind of event: its columns, and the Kafka topic and the Delta table that contain its events.

    Args:
        name: The name of the source.
        topic: The Kafka topic. A message that does not fit the source goes to `{topic}.dlq`.
        table: The name of the Delta table in the lake.
        columns: All columns of an event.
        event_id: The column that identifies an event. If several events have one id, the first to arrive counts.
        time: The column with the event's time.
        key: The column that is the key of the Kafka messages.
        checks: Thresholds for the events of a day.
        earliest: A day (UTC), such as "1970-01-02". An event before this day is refused, because its time is a default value (such as 0) or
            a mistake.
        latest: A day (UTC). An event on or after this day is refused as well.

    Raises:
        DeclarationError: A column has a name that cannot be used or that another column has; `event_id`, `time` or `key` is not a required column, or
            has the wrong type; `earliest` or `latest` is not a day, or they are in the wrong order; or `checks` names a column that does not exist or
            has the wrong type.
    """

    name: str
    topic: str
    table: str
    columns: tuple[Column, ...]
    event_id: str = "event_id"
    time: str = "event_timestamp"
    key: str = "user_id"
    checks: SourceChecks = field(default_factory=SourceChecks)
    earliest: str = "1970-01-02"
    latest: str = "2200-01-01"
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._check_columns()
        self._by_name.update({column.name: column for column in self.columns})
        for role, expected in ((self.event_id, ColumnType.STRING), (self.time, ColumnType.TIMESTAMP), (self.key, None)):
            column = self._by_name.get(role)
            if column is None or not column.required or (expected and column.type is not expected):
                raise DeclarationError(
                    f"The source {self.name} has no required column {role!r}{f' of type {expected.name}' if expected else ''}.",
                    "Add it to the columns of the source.",
                )
        try:
            ordered = self.earliest_ms < self.latest_ms
        except ValueError:
            ordered = False
        if not ordered:
            raise DeclarationError(
                f"The source {self.name} takes events from {self.earliest!r} to {self.latest!r}, which is no span of days.",
                "Write days such as '1970-01-01', the earlier one first.",
            )

        for name in (*self.checks.categories, *self.checks.bounds):
            column = self._by_name.get(name)
            wanted = {ColumnType.STRING} if name in self.checks.categories else {ColumnType.DECIMAL, ColumnType.INT64}
            if column is None or column.type not in wanted:
                raise DeclarationError(
                    f"The checks of {self.name} name {name!r}, which is not a column of {' or '.join(sorted(kind.name for kind in wanted))}.",
                    "Watch categories of texts, and bounds of numbers.",
                )

    def _check_columns(self) -> None:
        for column in self.columns:
            if not _COLUMN_NAME.fullmatch(column.name) or _RESERVED_COLUMNS.fullmatch(column.name):
                raise DeclarationError(
                    f"The column {column.name!r} of {self.name} cannot be used.",
                    "Use letters of English, digits and underscores, and no name of a column that braid adds, such as day, origin or ts_ms. "
                    "A file's column of another name is mapped by --map.",
                )
        if (twin := twin_of(column.name.lower() for column in self.columns)) is not None:
            raise DeclarationError(
                f"The source {self.name} has two columns named {twin!r}.",
                "Rename one of them; Spark does not tell upper from lower case.",
            )

    @property
    def dlq_topic(self) -> str:
        """The topic of the messages that do not fit the source, each with the reason and the original bytes."""
        return f"{self.topic}.dlq"

    @property
    def archive_table(self) -> str:
        """The Delta table with every message of the topic, unchanged."""
        return f"raw_{self.table}"

    def column(self, name: str) -> Column | None:
        """Returns the column with a name; None if the source has no such column."""
        return self._by_name.get(name)

    @property
    def earliest_ms(self) -> int:
        """The first valid instant of an event, in ms since 1970."""
        return day_start_ms(date.fromisoformat(self.earliest))

    @property
    def latest_ms(self) -> int:
        """The first instant after the valid instants of an event, in ms since 1970."""
        return day_start_ms(date.fromisoformat(self.latest))
