"""Converts times of files to RFC 3339: one reading per column, decided from the whole file, or an error that names the option to set.

Reads a column of texts with DuckDB; returns a relation with the column as RFC 3339, and the reason why a value has no such time. A column that can
be read in several ways is refused before anything is loaded: day and month could be exchanged, years have two digits, or epochs have an unclear unit.
A single value that cannot be read gets a reason, such as an hour that the clocks of the zone skip or repeat, or a word that is not a zone with a
fixed offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from batch.quoted import name_sql, text_sql
from infra.errors import InputError

_RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)"
_EPOCH = r"[+-]?\d{1,19}(\.\d+)?"
#: 20261101, 202611011130 and 20261101113000 are dates, because as epochs they would lie in 1970, in 1976, or later than any source allows.
_COMPACT_DATE, _COMPACT_MINUTE = r"((?:19|20)\d\d|0001|9999)(0[1-9]|1[0-2])([0-2]\d|3[01])", r"[Tt ]?([0-2]\d)([0-5]\d)"
_COMPACT_ZONE = r"(\s*(?:[Zz]|[Uu][Tt][Cc]|[+-]\d\d:?\d\d))?"
#: Each form of such a date → the same time with separators between its parts. A fraction may follow the seconds as 3 digits without a point.
_COMPACT = {
    rf"{_COMPACT_DATE}(?:\.0+)?": r"\1-\2-\3",
    rf"{_COMPACT_DATE}{_COMPACT_MINUTE}(?:\.0+)?{_COMPACT_ZONE}": r"\1-\2-\3 \4:\5\6",
    rf"{_COMPACT_DATE}{_COMPACT_MINUTE}([0-5]\d)(?:[.,](\d{{1,9}})|(\d{{3}}))?{_COMPACT_ZONE}": r"\1-\2-\3 \4:\5:\6.\7\80\9",
    rf"{_COMPACT_DATE}((?:\s*[Tt,]\s*|\s+)\d{{1,2}}:\d\d.*)": r"\1-\2-\3\4",
}
#: Digits that are no epoch, even if they are no time of the calendar: these forms, the zeros that SAP writes for a missing date, and twelve digits
#: that would be an epoch of 1976.
_COMPACT_ANY = rf"{'|'.join(_COMPACT)}|0{{8}}|0{{14}}|(?:19|20)\d{{10}}(?:\.0+)?"
_WORD = r"(\D.*)?"
_CLOCK = r"(?:(?:\s*[Tt,]\s*|\s+)(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?\s*(?:([AaPp])\.?[Mm]\.?)?\s*" + _WORD
_CALENDAR = r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"
_NUMBERS, _SHORT = (r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})", r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{2})")
_NAIVE = f"({_CALENDAR}|{_NUMBERS}){_CLOCK.removesuffix(_WORD)}"
_PARTS = "['year', 'month', 'day', 'hour', 'minute', 'second', 'fraction', 'half', 'zone']"
#: Words behind a time that are zones with a fixed offset, in minutes.
_ZONES = {
    "Z": 0, "UTC": 0, "GMT": 0, "EST": -300, "EDT": -240, "CST": -360, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420,
}  # fmt: skip
_OFFSET = r"([+-])(\d\d):?(\d\d)?"
#: An offset with the name of a zone, as Go and Java write it: `+0100 CET`, `+01:00[Europe/Berlin]`, `Z[UTC]`. Only the offset counts.
_NAMED_OFFSET = r"(?:([+-]\d\d:?\d\d|[Zz])(?:\s*\[[\w/+-]+\]|\s+(?:[A-Z]{3,5}|[+-]\d\d(?:\d\d)?)(?:\s+m=[+-][\d.]+)?))"
#: Number of digits before the point → the unit, for times from 1973 on.
_UNIT_OF_DIGITS = {9: "s", 10: "s", 12: "ms", 13: "ms", 15: "us", 16: "us", 18: "ns", 19: "ns"}
#: The number of digits of a date from 1927 to 2173 in a spreadsheet, which counts the days since 1900.
_SERIAL_DIGITS = 5
_UNITS = {
    "s": ("seconds", "* 1000000"),
    "ms": ("milliseconds", "* 1000"),
    "us": ("microseconds", "* 1"),
    "ns": ("nanoseconds", "* 0.001"),
}
TIME_FORMATS = ("iso", *(f"epoch-{unit}" for unit in _UNITS))
#: The shapes of values that have only one reading.
_SHAPES = {"rfc3339": "RFC 3339 with an offset", "calendar": "year-month-day", "compact": "year, month and day in digits"}
#: The two columns that a reading adds: the time of a row as RFC 3339, and the reason why the row has no time.
TIME, TIME_MISFIT = '"braid: time"', '"braid: time misfit"'


@dataclass(frozen=True)
class TimeReading:
    """How a column of times is read.

    Attributes:
        as_what: The reading, in words.
        why: How the reading was chosen.
        relation: The column's relation with `TIME` and `TIME_MISFIT`. A text that is no time stays as it is.
    """

    as_what: str
    why: str
    relation: str


@dataclass(frozen=True)
class TimeColumn:
    """A column of texts to read as times.

    Attributes:
        connection: The connection of the relation.
        relation: SQL for a FROM clause; the column `_at` is the place of a row in its file.
        name: The column; a value is a stripped text, or NULL.
        place: The unit of `_at`: "line" or "row".
        zone: The zone of times without an offset.
    """

    connection: duckdb.DuckDBPyConnection
    relation: str
    name: str
    place: str
    zone: str

    def query(self, select: str, where: str = "true") -> list[tuple[Any, ...]]:
        """Returns the result of a query over the columns t (the text), shape (the shape of the text) and _at."""
        shaped = f"SELECT t, {_SHAPE} AS shape, _at FROM (SELECT {_text_sql(name_sql(self.name))} AS t, _at FROM {self.relation}) WHERE t IS NOT NULL"
        return self.connection.execute(f"SELECT {select} FROM ({shaped}) WHERE {where}").fetchall()

    def at(self, text: str, at: int) -> str:
        """Returns a value with its place in the file, for an error."""
        return f"{text!r} in {self.place} {at}"


_SHAPE = (
    f"CASE WHEN regexp_full_match(t, {text_sql(_RFC3339)}) THEN 'rfc3339' "
    f"WHEN regexp_full_match(t, {text_sql(_COMPACT_ANY)}) THEN 'compact' "
    f"WHEN regexp_full_match(t, {text_sql(_EPOCH)}) THEN 'epoch' WHEN regexp_full_match(t, {text_sql(_CALENDAR + _CLOCK)}) THEN 'calendar' "
    f"WHEN regexp_full_match(t, {text_sql(_NUMBERS + _CLOCK)}) THEN 'numbers' "
    f"WHEN regexp_full_match(t, {text_sql(_SHORT + _CLOCK)}) THEN 'short' ELSE 'other' END"
)


def read_times(column: TimeColumn, time_format: str | None = None, day_first: bool | None = None) -> TimeReading:
    """Decides how a column of times is read.

    Args:
        column: The texts.
        time_format: One of `TIME_FORMATS`, or a format of strptime; None to decide by the column.
        day_first: Whether 01/02/2026 is the first of February; None to decide by the column.

    Raises:
        InputError: The column can be read in several ways, or the format is invalid.
    """
    if time_format is not None and time_format not in TIME_FORMATS:
        return _by_strptime(column, time_format)
    if time_format is not None:
        _, _, unit = time_format.partition("epoch-")
        words = f"{_UNITS[unit][0]} since 1970" if unit else f"year-month-day, without an offset in {column.zone}"
        return TimeReading(words, "--time-format", _relation(column, unit, "", exact=True))
    shapes = {shape: (count, column.at(text, at)) for shape, count, text, at in column.query(
        "shape, count(*), arg_min(t, _at), min(_at)", "true GROUP BY shape"
    )}  # fmt: skip
    if shapes.keys() <= {"rfc3339"}:
        relation = f"(SELECT *, {name_sql(column.name)} AS {TIME}, NULL::VARCHAR AS {TIME_MISFIT} FROM {column.relation})"
        return TimeReading("RFC 3339 with an offset", "every value has one", relation)
    if "short" in shapes:
        raise InputError(
            f"The times of {column.name} have years of two digits, such as {shapes['short'][1]}.",
            "Name their format, such as by --time-format '%m/%d/%y %H:%M'.",
        )
    if "calendar" in shapes:
        _refuse_year_day_month(column)
    readings = {
        words: f"{shapes[shape][0]:,} values, such as {shapes[shape][1]}" for shape, words in _SHAPES.items() if shape in shapes
    }
    unit = order = ""
    if "epoch" in shapes:
        unit, why = _unit(column)
        readings[f"{_UNITS[unit][0]} since 1970"] = why
    if "numbers" in shapes:
        order, why = _order(column, day_first)
        readings["day/month/year" if order == "day" else "month/day/year"] = why
    if shapes.keys() & {"calendar", "numbers", "compact"} and column.query(
        "1", f"regexp_full_match({_spread_sql()}, {text_sql(_NAIVE)}) LIMIT 1"
    ):
        readings[f"without an offset in {column.zone}"] = "--time-zone, by default UTC"
    if "other" in shapes:
        readings["no time"] = f"{shapes['other'][0]:,} values, such as {shapes['other'][1]}: name their format by --time-format"
    return TimeReading("; ".join(readings), "; ".join(readings.values()), _relation(column, unit, order))


def _unit(column: TimeColumn) -> tuple[str, str]:
    """Returns the unit of the epochs, and how it was chosen."""
    cure = "Name the unit by --time-format epoch-s, epoch-ms, epoch-us or epoch-ns, or the form of dates, such as by --time-format '%d%m%Y'."
    # 0 and -1 stand for a missing time, and lie before 1970-01-02 in every unit.
    digits = column.query(
        r"length(regexp_extract(t, '\d+')), arg_min(t, _at), min(_at)",
        r"shape = 'epoch' AND NOT regexp_full_match(t, '(0+|-0*1)(\.0+)?') GROUP BY 1 ORDER BY 3",
    )
    if not digits:
        return "s", "0 and -1 are the same in every unit"
    examples: dict[str, str] = {}
    for count, text, at in digits:
        if count in _UNIT_OF_DIGITS:
            examples.setdefault(_UNIT_OF_DIGITS[count], column.at(text, at))
    if not examples:
        if digits[0][0] == _SERIAL_DIGITS:
            cure += " If a spreadsheet counts days in it, export the column as a date and time."
        raise InputError(f"The unit of the epochs of {column.name} is not clear, such as of {column.at(*digits[0][1:])}.", cure)
    if len(examples) > 1:
        units = " and ".join(f"{_UNITS[unit][0]} by {example}" for unit, example in examples.items())
        raise InputError(f"The epochs of {column.name} have several units: {units}.", cure)
    [(unit, example)] = examples.items()
    return unit, f"the number of digits, such as of {example}"


def _order(column: TimeColumn, day_first: bool | None) -> tuple[str, str]:
    """Returns the first part of dates such as 01/02/2026, "day" or "month", and how it was chosen."""
    if day_first is not None:
        return ("day", "--day-first") if day_first else ("month", "--month-first")
    cure = "Choose by --day-first or --month-first"
    first, second = (rf"CAST(regexp_extract(t, '^(\d+)\D(\d+)', {group}) AS INT)" for group in (1, 2))
    dots = r"(regexp_extract(t, '\D') = '.')"
    proofs = column.query(
        f"CASE WHEN {first} > 12 THEN 'day' WHEN {second} > 12 THEN 'month' ELSE 'none' END, arg_min(t, ({dots}, _at)), "
        f"arg_min(_at, ({dots}, _at)), bool_and({dots})",
        "shape = 'numbers' GROUP BY 1",
    )
    examples = {proof: column.at(text, at) for proof, text, at, _ in proofs}
    dotted = {proof: only_dots for proof, _, _, only_dots in proofs}
    if {"day", "month"} <= examples.keys():
        raise InputError(
            f"The dates of {column.name} contradict each other: {examples['day']} has the day first, {examples['month']} the month.",
            f"{cure}; rows with the other order then go to quarantine.",
        )
    # Dates with dots have the day first anyway, so they show nothing about dates with other separators.
    shown = {order for order in ("day", "month") if order in examples and (not dotted[order] or dotted.get("none", True))}
    for order in ("day", "month"):
        if order in shown:
            return order, f"{examples[order]} can only have the {order} first"
    if all(dotted.values()):
        return "day", "dates with dots have the day first"
    raise InputError(
        f"The dates of {column.name} can be read with the day or the month first, such as {examples['none']}.", f"{cure}."
    )


def _refuse_year_day_month(column: TimeColumn) -> None:
    """Refuses dates such as 2026-31-12, unless another value proves that the month is the second part: then such dates are misfits of their rows."""
    second, third = (rf"CAST(regexp_extract(t, '^\d+\D(\d+)\D(\d+)', {group}) AS INT)" for group in (1, 2))
    [(swapped, at, proofs)] = column.query(
        f"arg_min(t, _at) FILTER ({second} > 12 AND {third} <= 12), min(_at) FILTER ({second} > 12 AND {third} <= 12), "
        f"count(*) FILTER ({second} <= 12 AND {third} > 12)",
        "shape = 'calendar'",
    )
    if swapped is not None and not proofs:
        raise InputError(
            f"The dates of {column.name} seem to have the day before the month, such as {column.at(swapped, at)}.",
            "Say how they are meant, by --time-format '%Y-%d-%m' with the form of the clock, or by --time-format iso.",
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
    """Returns the column's relation with the two columns of a reading.

    Args:
        column: The texts.
        unit: The unit of epochs; empty for a column without epochs.
        order: The first part of dates such as 01/02/2026, "day" or "month"; empty for a column without such dates.
        exact: Whether a text of another shape is a misfit, because the user named the shape.
    """
    # A declared unit applies to all digits, also to digits that would otherwise be a date.
    shaped = _with(
        _texts(column), shape=f"CASE WHEN regexp_full_match(t, {text_sql(_EPOCH)}) THEN 'epoch' END" if exact and unit else _SHAPE
    )
    # Every date is converted to the form year-month-day, so that one expression reads all dates.
    order_sql = r"\3-\2-\1" if order == "day" else r"\3-\1-\2"
    numbers = f"regexp_replace(t, {text_sql(_NUMBERS)}, {text_sql(order_sql)})"
    date = f"CASE shape WHEN 'calendar' THEN t WHEN 'numbers' THEN {numbers} WHEN 'compact' THEN {_spread_sql()} END"
    parts = f"regexp_extract(date, {text_sql(f'^{_CALENDAR}{_CLOCK}$')}, {_PARTS})"
    zone = f"regexp_replace(p.zone, {text_sql(f'^{_NAMED_OFFSET}$')}, {text_sql(chr(92) + '1')})"
    parsed = _with(_with(_with(shaped, date=date), p=parts), zone=zone)
    hour = (
        "CASE WHEN p.half = '' THEN p.hour WHEN try_cast(p.hour AS INT) BETWEEN 1 AND 12 "
        "THEN CAST(CAST(p.hour AS INT) % 12 + CASE WHEN upper(p.half) = 'P' THEN 12 ELSE 0 END AS VARCHAR) ELSE 'none' END"
    )
    zones = " ".join(f"WHEN '{word}' THEN {minutes}" for word, minutes in _ZONES.items())
    sign, hours, minutes = (f"regexp_extract(zone, {text_sql(_OFFSET)}, {group})" for group in (1, 2, 3))
    offset = (
        f"CASE WHEN regexp_full_match(zone, {text_sql(_OFFSET)}) "
        f"THEN CASE {sign} WHEN '-' THEN -1 ELSE 1 END * (CAST({hours} AS INT) * 60 + coalesce(try_cast({minutes} AS INT), 0)) "
        f"ELSE CASE upper(zone) {zones} END END"
    )
    timed = _with(
        parsed,
        clock=f"try_cast(concat(p.year, '-', lpad(p.month, 2, '0'), '-', lpad(p.day, 2, '0'), ' ', {_padded(hour)}, ':', "
        f"{_padded('p.minute')}, ':', {_padded('p.second')}, '.', left(concat(p.fraction, '0'), 6)) AS TIMESTAMP)",
        minutes=offset,
        micros=f"try_cast(floor(try_cast(t AS DECIMAL(28, 9)) {_UNITS[unit][1]}) AS BIGINT)" if unit else "NULL::BIGINT",
    )
    wrong = "CASE WHEN shape IN ('calendar', 'numbers', 'compact') THEN 'is no time of the calendar' WHEN shape = 'epoch' THEN 'is an epoch before 1685 or after 2255' END"
    declared = "true"
    if exact:
        declared = "shape = 'epoch'" if unit else "shape IN ('rfc3339', 'calendar', 'compact')"
        wrong = f"CASE WHEN {declared} THEN {wrong} ELSE 'is not of the declared form' END"
    staged = _with(
        timed,
        local=f"CASE WHEN {declared} AND p.zone = '' THEN clock END",
        # 2^53 microseconds is a time in the year 2255, later than any source allows.
        instant=f"CASE WHEN NOT {declared} THEN NULL WHEN shape = 'rfc3339' THEN try_cast(t AS TIMESTAMPTZ) WHEN shape = 'epoch' THEN CASE WHEN abs(micros) < 9007199254740992 "
        "THEN make_timestamp(micros) AT TIME ZONE 'UTC' END WHEN abs(minutes) <= 1080 THEN (clock - to_minutes(minutes)) AT TIME ZONE 'UTC' END",
        word="CASE WHEN p.zone <> '' AND minutes IS NULL THEN p.zone END",
        wrong=wrong,
    )
    return _finished(column, staged, f"shape = 'rfc3339' AND {declared}")


def _text_sql(value: str) -> str:
    """Returns SQL for a text with plain blanks, because browsers and Java write a narrow no-break space before PM."""
    return f"translate({value}, chr(160) || chr(8239), '  ')"


def _spread_sql() -> str:
    """Returns SQL for the text t with separators between the parts of a date that is written in digits alone."""
    sql = "t"
    for pattern, to in _COMPACT.items():
        sql = f"regexp_replace({sql}, {text_sql(f'^(?:{pattern})$')}, {text_sql(to)})"
    return sql


def _texts(column: TimeColumn) -> str:
    """Returns a relation with each row as one value r, and its text t. So the columns of the next steps never collide with columns of the file."""
    value = f'"braid: row".{name_sql(column.name)}'
    return f'(SELECT "braid: row" AS r, {_text_sql(value)} AS t FROM {column.relation} AS "braid: row")'


def _finished(column: TimeColumn, staged: str, unchanged: str = "false") -> str:
    """Returns the column's relation with the two columns of a reading.

    Args:
        column: The texts.
        staged: The relation with t, the text; local, a time without an offset; instant, a time with an offset; word, a word behind the time that
            is not a zone; and wrong, the reason for a text that has neither time.
        unchanged: A SQL condition that is true for a text that stays unchanged.
    """
    zone, name = text_sql(column.zone), column.name
    both = _with(staged, naive=f"local AT TIME ZONE {zone}")
    # There are zones whose clocks are put back by half an hour, by one hour or by two hours.
    twice = " OR ".join(
        f"(naive {sign} INTERVAL {minutes} MINUTE) AT TIME ZONE {zone} = local" for sign in "+-" for minutes in (30, 60, 120)
    )
    misfit = (
        f"CASE WHEN {unchanged} THEN NULL WHEN word IS NOT NULL THEN concat({text_sql(f'{name} has a word behind the time that is no zone of a fixed offset: ')}, t) "
        f"WHEN t IS NOT NULL AND wrong IS NOT NULL AND local IS NULL AND instant IS NULL THEN concat({text_sql(name + ' ')}, wrong, ': ', t) "
        f"WHEN naive AT TIME ZONE {zone} <> local THEN concat({text_sql(f'{name} is in an hour that the clocks of {column.zone} skip: ')}, t) "
        f"WHEN {twice} THEN concat({text_sql(f'{name} is in an hour that the clocks of {column.zone} repeat: ')}, t) END"
    )
    time = f"CASE WHEN {unchanged} THEN t ELSE coalesce(strftime(coalesce(instant, naive) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ'), t) END"
    return f"(SELECT r.*, {time} AS {TIME}, {misfit} AS {TIME_MISFIT} FROM {both})"


def _padded(sql: str) -> str:
    return f"CASE WHEN {sql} = '' THEN '00' ELSE lpad({sql}, 2, '0') END"


def _with(relation: str, **columns: str) -> str:
    """Returns the relation with further columns, which the next step can use."""
    return f"(SELECT *, {', '.join(f'{sql} AS {name}' for name, sql in columns.items())} FROM {relation})"
