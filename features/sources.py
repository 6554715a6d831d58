"""Events: what a source promises, and the SQL that holds a raw row to it.

One contract for both layers: `raw` columns are strings, whatever they were in a Kafka message, a CSV or a Parquet file; the
expressions here give the typed columns of the `events` table and, for a row that does not fit, one sentence of reason. Spark
evaluates them in the stream and in the batch, so a value means the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from features.checks import SourceChecks
from features.errors import DeclarationError

MICROS = 1_000_000
#: Where Spark's JSON reader puts a message that is not a JSON object.
CORRUPT = "_corrupt"
#: RFC 3339: a date, a time to the second or finer, and an offset.
RFC3339 = r"^\\d{4}-\\d\\d-\\d\\d[Tt ]\\d\\d:\\d\\d:\\d\\d(\\.\\d{1,9})?([Zz]|[+-]\\d\\d:\\d\\d)$"


class ColumnType(StrEnum):
    """The types an event's column can have, as Spark SQL names them. Decimals hold micro-units exactly."""

    STRING = "STRING"
    INT64 = "BIGINT"
    DECIMAL = "DECIMAL(18, 6)"
    TIMESTAMP = "TIMESTAMP"
    MAP = "MAP<STRING, STRING>"


@dataclass(frozen=True)
class Column:
    """One column of a source."""

    name: str
    type: ColumnType = ColumnType.STRING
    required: bool = False

    @property
    def raw_sql_type(self) -> str:
        """The type before the contract: text, or a map of texts."""
        return self.type.value if self.type is ColumnType.MAP else "STRING"

    def typed_sql(self) -> str:
        """The typed value of the raw column of the same name, NULL where it does not fit."""
        raw = f"`{self.name}`"
        if self.type is ColumnType.INT64:
            # "17850.0" is how spreadsheets write an integer column with gaps.
            return f"CASE WHEN trim({raw}) RLIKE '^[+-]?\\\\d+(\\\\.0+)?$' THEN try_cast(split_part(trim({raw}), '.', 1) AS BIGINT) END"
        if self.type is ColumnType.DECIMAL:
            return f"try_cast(bround(try_cast(trim({raw}) AS DECIMAL(38, 18)), 6) AS DECIMAL(18, 6))"
        if self.type is ColumnType.TIMESTAMP:
            return f"CASE WHEN {raw} RLIKE '{RFC3339}' THEN try_cast(upper({raw}) AS TIMESTAMP) END"
        return raw

    def reason_sql(self) -> str | None:
        """A `WHEN … THEN reason` for a row in which this column does not fit, or None where every text fits."""
        raw, name = f"`{self.name}`", self.name
        expected = {
            ColumnType.INT64: "a 64-bit integer",
            ColumnType.DECIMAL: "a decimal below 10^12",
            ColumnType.TIMESTAMP: "an RFC 3339 time with an offset",
        }.get(self.type)
        parts = []
        if self.required:
            parts.append(f"WHEN {raw} IS NULL OR trim({raw}) = '' THEN '{name} is missing'")
        if expected:
            filled = "" if self.required else f"{raw} IS NOT NULL AND trim({raw}) <> '' AND "
            parts.append(f"WHEN {filled}({self.typed_sql()}) IS NULL THEN concat('{name} is not {expected}: ', left({raw}, 80))")
        return " ".join(parts) or None


@dataclass(frozen=True)
class EventSource:
    """A kind of event: its columns, and the Kafka topic and the Delta table that hold it.

    Args:
        name: The source's name.
        topic: Kafka topic; what does not fit goes to `{topic}.dlq`.
        table: Delta table under the lake.
        columns: Every column of the contract.
        event_id: The column by which duplicates fall.
        time: The column with the event's time.
        key: The column that keys the Kafka messages.
        checks: What is normal of its events.

    Raises:
        DeclarationError: A role names a column that does not exist or has the wrong type.
    """

    name: str
    topic: str
    table: str
    columns: tuple[Column, ...]
    event_id: str = "event_id"
    time: str = "event_timestamp"
    key: str = "user_id"
    checks: SourceChecks = field(default_factory=SourceChecks)
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update({column.name: column for column in self.columns})
        for role, expected in ((self.event_id, ColumnType.STRING), (self.time, ColumnType.TIMESTAMP), (self.key, None)):
            column = self._by_name.get(role)
            if column is None or not column.required or (expected and column.type is not expected):
                raise DeclarationError(
                    f"The source {self.name} has no required column {role!r}{f' of type {expected.name}' if expected else ''}.",
                    "Add it to the columns of the source.",
                )

        for name in (*self.checks.categories, *self.checks.bounds):
            column = self._by_name.get(name)
            wanted = {ColumnType.STRING} if name in self.checks.categories else {ColumnType.DECIMAL, ColumnType.INT64}
            if column is None or column.type not in wanted:
                raise DeclarationError(
                    f"The checks of {self.name} name {name!r}, which is not a column of {' or '.join(sorted(kind.name for kind in wanted))}.",
                    "Watch categories of texts, and bounds of numbers.",
                )

    @property
    def dlq_topic(self) -> str:
        """Where messages go that do not fit, with the reason and the original bytes."""
        return f"{self.topic}.dlq"

    @property
    def archive_table(self) -> str:
        """The Delta table with every message of the topic as it came."""
        return f"raw_{self.table}"

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return self._by_name.get(name)

    def raw_schema_sql(self) -> str:
        """The schema by which JSON is read before the contract is applied: all text."""
        return ", ".join(f"`{column.name}` {column.raw_sql_type}" for column in self.columns)

    def typed_select_sql(self) -> list[str]:
        """Expressions over the raw columns that give the typed ones, and `ts_ms`, the event's time in milliseconds."""
        typed = [f"{column.typed_sql()} AS `{column.name}`" for column in self.columns]
        time = self._by_name[self.time].typed_sql()
        # unix_millis floors, also before 1970: a half-open window must not see an event early.
        return [*typed, f"unix_millis({time}) AS ts_ms"]

    def json_schema_sql(self) -> str:
        """`raw_schema_sql` and the column in which Spark's JSON reader says that a message is none: `CORRUPT`."""
        return f"{self.raw_schema_sql()}, `{CORRUPT}` STRING"

    def reason_sql(self, arrival_ms_sql: str, future_ms: int, corrupt: bool = False) -> str:
        """An expression over the raw columns: NULL for a row that fits, else one clause that says why not.

        Args:
            arrival_ms_sql: When the row arrived, in milliseconds. An event from the future would move the watermark and silence
                every good event after it.
            future_ms: How far a clock may be ahead of the arrival.
            corrupt: Whether the rows come from JSON read by `json_schema_sql`.
        """
        whens = [f"WHEN `{CORRUPT}` IS NOT NULL THEN 'the message is not a JSON object'"] if corrupt else []
        whens += [reason for column in self.columns if (reason := column.reason_sql())]
        time = self._by_name[self.time].typed_sql()
        ahead = f"unix_millis({time}) - ({arrival_ms_sql})"
        whens.append(f"WHEN {ahead} > {future_ms} THEN concat('{self.time} lies after the arrival, in ms: ', {ahead})")
        return f"CASE {' '.join(whens)} END"
