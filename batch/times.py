"""Times as files spell them → RFC 3339: one reading per column, decided over the whole file, or a refusal that names the option.

Reads a column of texts by DuckDB; gives a relation with the column as RFC 3339, and the reason why a value has no such time. What the
whole column leaves open is refused before anything is loaded: a day and a month that could be exchanged, years of two digits, epochs
of an unclear unit. What one value leaves open is the reason of its row: an hour that the clocks of the zone skip or repeat, a word
that is no zone of a fixed offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from batch.quoted import name_sql, text_sql
from infra.errors import InputError

_RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)"
_EPOCH = r"[+-]?\d{1,19}(\.\d+)?"
#: 20261101 and 20261101113000 are dates: as epochs they would lie in 1970, or beyond any bound.
_COMPACT_DATE, _COMPACT_CLOCK = r"((?:19|20)\d\d)(0[1-9]|1[0-2])([0-2]\d|3[01])", r"[Tt ]?([0-2]\d)([0-5]\d)([0-5]\d)"
_WORD = r"(\D.*)?"
_CLOCK = r"(?:(?:\s*[Tt,]\s*|\s+)(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?\s*(?:([AaPp])\.?[Mm]\.?)?\s*" + _WORD
_CALENDAR = r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"
_NUMBERS, _SHORT = (r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})", r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{2})")
_NAIVE = f"{_COMPACT_DATE}({_COMPACT_CLOCK})?|({_CALENDAR}|{_NUMBERS}){_CLOCK.removesuffix(_WORD)}"
_PARTS = "['year', 'month', 'day', 'hour', 'minute', 'second', 'fraction', 'half', 'zone']"
#: Words behind a time that have one offset, in minutes.
_ZONES = {
    "Z": 0, "UTC": 0, "GMT": 0, "EST": -300, "EDT": -240, "CST": -360, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420,
}  # fmt: skip
_OFFSET = r"([+-])(\d\d):?(\d\d)?"
#: Digits before the point → the unit, for times from 1973 on; no two units share a number of digits.
_UNIT_OF_DIGITS = {9: "s", 10: "s", 12: "ms", 13: "ms", 15: "us", 16: "us", 18: "ns", 19: "ns"}
_UNITS = {
    "s": ("seconds", "* 1000000"),
    "ms": ("milliseconds", "* 1000"),
    "us": ("microseconds", "* 1"),
    "ns": ("nanoseconds", "* 0.001"),
}
TIME_FORMATS = ("iso", *(f"epoch-{unit}" for unit in _UNITS))
#: A reading of values that need no further decision.
_SHAPES = {"rfc3339": "RFC 3339 with an offset", "calendar": "year-month-day", "compact": "year, month and day in digits"}
#: The time of a row as RFC 3339, and why it has none: the two columns that a reading adds.
TIME, TIME_MISFIT = '"braid: time"', '"braid: time misfit"'


@dataclass(frozen=True)
class TimeReading:
    """How a column of times is read.

    Attributes:
        as_what: The reading, in words.
        why: What decided it.
        relation: The column's relation with `TIME` and `TIME_MISFIT`. A text that is no time stays as it is.
    """

    as_what: str
    why: str
    relation: str


@dataclass(frozen=True)
class TimeColumn:
    """A column of texts that is to be read.

    Attributes:
        connection: Where the relation is.
        relation: SQL that can stand behind FROM; `_at` says where a row is in its file.
        name: The column; a value is a text without blanks around it, or NULL.
        place: What `_at` counts: "line" or "row".
        zone: Of times without an offset.
    """

    connection: duckdb.DuckDBPyConnection
    relation: str
    name: str
    place: str
    zone: str

    def query(self, select: str, where: str = "true") -> list[tuple[Any, ...]]:
        """The result of a query over t, the text; shape, its shape; and _at."""
        shaped = f"SELECT t, {_SHAPE} AS shape, _at FROM (SELECT {name_sql(self.name)} AS t, _at FROM {self.relation}) WHERE t IS NOT NULL"
        return self.connection.execute(f"SELECT {select} FROM ({shaped}) WHERE {where}").fetchall()

    def at(self, text: str, at: int) -> str:
        """A value as an error names it."""
        return f"{text!r} in {self.place} {at}"


_SHAPE = (
    f"CASE WHEN regexp_full_match(t, {text_sql(_RFC3339)}) THEN 'rfc3339' "
    f"WHEN regexp_full_match(t, {text_sql(f'{_COMPACT_DATE}({_COMPACT_CLOCK})?')}) THEN 'compact' "
    f"WHEN regexp_full_match(t, {text_sql(_EPOCH)}) THEN 'epoch' WHEN regexp_full_match(t, {text_sql(_CALENDAR + _CLOCK)}) THEN 'calendar' "
    f"WHEN regexp_full_match(t, {text_sql(_NUMBERS + _CLOCK)}) THEN 'numbers' "
    f"WHEN regexp_full_match(t, {text_sql(_SHORT + _CLOCK)}) THEN 'short' ELSE 'other' END"
)


def read_times(column: TimeColumn, time_format: str | None = None, day_first: bool | None = None) -> TimeReading:
    """The reading of a column.

    Args:
        column: The texts.
        time_format: One of `TIME_FORMATS`, or a format of strptime; None to decide by the column.
        day_first: Whether 01/02/2026 is the first of February; None to decide by the column.

    Raises:
        InputError: The column can be read in several ways, or the format is none.
    """
    if time_format is not None and time_format not in TIME_FORMATS:
        return _by_strptime(column, time_format)
    if time_format is not None:
        _, _, unit = time_format.partition("epoch-")
        words = f"{_UNITS[unit][0]} since 1970" if unit else f"year-month-day, without an offset in {column.zone}"
        return TimeReading(words, "--time-format", _relation(column, unit, "", exact=True))
    found = {shape: (count, column.at(text, at)) for shape, count, text, at in column.query(
        "shape, count(*), arg_min(t, _at), min(_at)", "true GROUP BY shape"
    )}  # fmt: skip
    if found.keys() <= {"rfc3339"}:
        relation = f"(SELECT *, {name_sql(column.name)} AS {TIME}, NULL::VARCHAR AS {TIME_MISFIT} FROM {column.relation})"
        return TimeReading("RFC 3339 with an offset", "every value has one", relation)
    if "short" in found:
        raise InputError(
            f"The times of {column.name} have years of two digits, such as {found['short'][1]}.",
            "Say how they are meant, such as by --time-format '%m/%d/%y %H:%M'.",
        )
    readings = {
        words: f"{found[shape][0]:,} values, such as {found[shape][1]}" for shape, words in _SHAPES.items() if shape in found
    }
    unit = order = ""
    if "epoch" in found:
        unit, why = _unit(column)
        readings[f"{_UNITS[unit][0]} since 1970"] = why
    if "numbers" in found:
        order, why = _order(column, day_first)
        readings["day/month/year" if order == "day" else "month/day/year"] = why
    if found.keys() & {"calendar", "numbers", "compact"} and column.query("1", f"regexp_full_match(t, {text_sql(_NAIVE)}) LIMIT 1"):
        readings[f"without an offset in {column.zone}"] = "--time-zone, by default UTC"
    if "other" in found:
        readings["no time"] = f"{found['other'][0]:,} values, such as {found['other'][1]}: --time-format can say what they are"
    return TimeReading("; ".join(readings), "; ".join(readings.values()), _relation(column, unit, order))


def _unit(column: TimeColumn) -> tuple[str, str]:
    """The unit of the epochs, and what decided it."""
    cure = "Say the unit by --time-format epoch-s, epoch-ms, epoch-us or epoch-ns."
    digits = column.query(r"length(regexp_extract(t, '\d+')), arg_min(t, _at), min(_at)", "shape = 'epoch' GROUP BY 1 ORDER BY 3")
    examples: dict[str, str] = {}
    for count, text, at in digits:
        if count in _UNIT_OF_DIGITS:
            examples.setdefault(_UNIT_OF_DIGITS[count], column.at(text, at))
    if not examples:
        raise InputError(f"The unit of the epochs of {column.name} is not clear, such as of {column.at(*digits[0][1:])}.", cure)
    if len(examples) > 1:
        units = " and ".join(f"{_UNITS[unit][0]} by {example}" for unit, example in examples.items())
        raise InputError(f"The epochs of {column.name} have several units: {units}.", cure)
    [(unit, example)] = examples.items()
    return unit, f"the number of digits, such as of {example}"


def _order(column: TimeColumn, day_first: bool | None) -> tuple[str, str]:
    """Which of "day" and "month" stands first in dates such as 01/02/2026, and what decided it."""
    if day_first is not None:
        return ("day", "--day-first") if day_first else ("month", "--month-first")
    cure = "Say which one is meant by --day-first or --month-first"
    first, second = (rf"CAST(regexp_extract(t, '^(\d+)\D(\d+)', {group}) AS INT)" for group in (1, 2))
    proofs = column.query(
        f"CASE WHEN {first} > 12 THEN 'day' WHEN {second} > 12 THEN 'month' ELSE 'none' END, arg_min(t, _at), min(_at), "
        r"bool_and(regexp_extract(t, '\D') = '.')",
        "shape = 'numbers' GROUP BY 1",
    )
    examples = {proof: column.at(text, at) for proof, text, at, _ in proofs}
    if {"day", "month"} <= examples.keys():
        raise InputError(
            f"The dates of {column.name} contradict each other: {examples['day']} has the day first, {examples['month']} the month.",
            f"{cure}; rows of the other kind then go to quarantine.",
        )
    for order in ("day", "month"):
        if order in examples:
            return order, f"{examples[order]} can only have the {order} first"
    if all(dots for *_, dots in proofs):
        return "day", "dates with dots have the day first"
    raise InputError(
        f"The dates of {column.name} can be read with the day or the month first, such as {examples['none']}.", f"{cure}."
    )


def _by_strptime(column: TimeColumn, time_format: str) -> TimeReading:
    try:
        [(kind,)] = column.connection.execute(f"SELECT typeof(try_strptime('', {text_sql(time_format)}))").fetchall()
    except duckdb.Error:
        raise InputError(
            f"The time format {time_format!r} cannot be used.",
            f"Give one of {', '.join(TIME_FORMATS)}, or a format of strptime such as '%d/%m/%Y %H:%M'.",
        ) from None
    parsed = f"try_strptime(t, {text_sql(time_format)})"
    zoned = "TIME ZONE" in kind
    staged = _with(
        _texts(column),
        local="NULL::TIMESTAMP" if zoned else parsed,
        instant=parsed if zoned else "NULL::TIMESTAMPTZ",
        word="NULL::VARCHAR",
        wrong=text_sql(f"does not fit the format {time_format}"),
    )
    return TimeReading(time_format if zoned else f"{time_format} in {column.zone}", "--time-format", _finished(column, staged))


def _relation(column: TimeColumn, unit: str, order: str, exact: bool = False) -> str:
    """The column's relation with the two columns of a reading.

    Args:
        column: The texts.
        unit: Of epochs; empty where there are none.
        order: "day" or "month", of dates such as 01/02/2026; empty where there are none.
        exact: Whether a text of another shape is a misfit, because the shape was declared.
    """
    shaped = _with(_texts(column), shape=_SHAPE)
    # Every date as year-month-day, so that one expression reads all.
    digits = [
        f"regexp_replace(t, {text_sql(f'^{_COMPACT_DATE}{clock}$')}, {text_sql(to)})"
        for clock, to in (("", r"\1-\2-\3"), (_COMPACT_CLOCK, r"\1-\2-\3 \4:\5:\6"))
    ]
    order_sql = r"\3-\2-\1" if order == "day" else r"\3-\1-\2"
    numbers = f"regexp_replace(t, {text_sql(_NUMBERS)}, {text_sql(order_sql)})"
    date = f"CASE shape WHEN 'calendar' THEN t WHEN 'numbers' THEN {numbers} WHEN 'compact' THEN CASE length(t) WHEN 8 THEN {digits[0]} ELSE {digits[1]} END END"
    parsed = _with(_with(shaped, date=date), p=f"regexp_extract(date, {text_sql(f'^{_CALENDAR}{_CLOCK}$')}, {_PARTS})")
    hour = (
        "CASE WHEN p.half = '' THEN p.hour WHEN try_cast(p.hour AS INT) BETWEEN 1 AND 12 "
        "THEN CAST(CAST(p.hour AS INT) % 12 + CASE WHEN upper(p.half) = 'P' THEN 12 ELSE 0 END AS VARCHAR) ELSE 'none' END"
    )
    zones = " ".join(f"WHEN '{word}' THEN {minutes}" for word, minutes in _ZONES.items())
    sign, hours, minutes = (f"regexp_extract(p.zone, {text_sql(_OFFSET)}, {group})" for group in (1, 2, 3))
    offset = (
        f"CASE WHEN regexp_full_match(p.zone, {text_sql(_OFFSET)}) "
        f"THEN CASE {sign} WHEN '-' THEN -1 ELSE 1 END * (CAST({hours} AS INT) * 60 + coalesce(try_cast({minutes} AS INT), 0)) "
        f"ELSE CASE upper(p.zone) {zones} END END"
    )
    timed = _with(
        parsed,
        clock=f"try_cast(concat(p.year, '-', lpad(p.month, 2, '0'), '-', lpad(p.day, 2, '0'), ' ', {_padded(hour)}, ':', "
        f"{_padded('p.minute')}, ':', {_padded('p.second')}, '.', left(concat(p.fraction, '0'), 6)) AS TIMESTAMP)",
        minutes=offset,
        micros=f"try_cast(floor(try_cast(t AS DECIMAL(28, 9)) {_UNITS[unit][1]}) AS BIGINT)" if unit else "NULL::BIGINT",
    )
    wrong = "CASE WHEN shape IN ('calendar', 'numbers', 'compact') THEN 'is no time of the calendar' WHEN shape = 'epoch' THEN 'is an epoch of no year' END"
    declared = "true"
    if exact:
        declared = "shape = 'epoch'" if unit else "shape IN ('rfc3339', 'calendar', 'compact')"
        wrong = f"CASE WHEN {declared} THEN {wrong} ELSE 'is not of the declared form' END"
    staged = _with(
        timed,
        local=f"CASE WHEN {declared} AND p.zone = '' THEN clock END",
        # 2^53 microseconds, in the year 2255, lie beyond what the contract takes.
        instant=f"CASE WHEN NOT {declared} THEN NULL WHEN shape = 'rfc3339' THEN try_cast(t AS TIMESTAMPTZ) WHEN shape = 'epoch' THEN CASE WHEN abs(micros) < 9007199254740992 "
        "THEN make_timestamp(micros) AT TIME ZONE 'UTC' END WHEN abs(minutes) <= 1080 THEN (clock - to_minutes(minutes)) AT TIME ZONE 'UTC' END",
        word="CASE WHEN p.zone <> '' AND minutes IS NULL THEN p.zone END",
        wrong=wrong,
    )
    return _finished(column, staged, f"shape = 'rfc3339' AND {declared}")


def _texts(column: TimeColumn) -> str:
    """The rows, each as one value, and t, the text: no name of the next steps is then one of the file's."""
    return f'(SELECT "braid: row" AS r, "braid: row".{name_sql(column.name)} AS t FROM {column.relation} AS "braid: row")'


def _finished(column: TimeColumn, staged: str, kept: str = "false") -> str:
    """The two columns of a reading.

    Args:
        column: The texts.
        staged: The relation with t, the text; local, a time without an offset; instant; word, which is no zone; and wrong, what is
            to be said of a text that has neither time.
        kept: Whether a text stays as it is.
    """
    zone, name = text_sql(column.zone), column.name
    both = _with(staged, naive=f"local AT TIME ZONE {zone}")
    # Clocks are put back by half an hour to two hours.
    twice = " OR ".join(
        f"(naive {sign} INTERVAL {minutes} MINUTE) AT TIME ZONE {zone} = local" for sign in "+-" for minutes in (30, 60, 120)
    )
    misfit = (
        f"CASE WHEN {kept} THEN NULL WHEN word IS NOT NULL THEN concat({text_sql(f'{name} has a word behind the time that is no zone of a fixed offset: ')}, t) "
        f"WHEN t IS NOT NULL AND wrong IS NOT NULL AND local IS NULL AND instant IS NULL THEN concat({text_sql(name + ' ')}, wrong, ': ', t) "
        f"WHEN naive AT TIME ZONE {zone} <> local THEN concat({text_sql(f'{name} is in an hour that the clocks of {column.zone} skip: ')}, t) "
        f"WHEN {twice} THEN concat({text_sql(f'{name} is in an hour that the clocks of {column.zone} repeat: ')}, t) END"
    )
    time = f"CASE WHEN {kept} THEN t ELSE coalesce(strftime(coalesce(instant, naive) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ'), t) END"
    return f"(SELECT r.*, {time} AS {TIME}, {misfit} AS {TIME_MISFIT} FROM {both})"


def _padded(sql: str) -> str:
    return f"CASE WHEN {sql} = '' THEN '00' ELSE lpad({sql}, 2, '0') END"


def _with(relation: str, **columns: str) -> str:
    """The relation with more columns, which the next step can name."""
    return f"(SELECT *, {', '.join(f'{sql} AS {name}' for name, sql in columns.items())} FROM {relation})"
