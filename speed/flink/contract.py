"""The contract of a source in Flink SQL: a message → the verdict on it, and typed columns.

The verdict is that of `features.judgement` in Spark SQL, whenever it is certain:

- `FITS`: the text is a JSON object by a strict grammar, and each value has a form that both engines read alike.
- `REFUSED`: Spark refuses the message as well.
- `UNDECIDED`: neither is certain. The writer then marks answers that may lack the event as degraded.

Flink computes an expression again at each place that uses it. So each step is a query of its own, and `_step` keeps the planner from joining steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from features.judgement import HALF, WHOLE_PAIRS
from features.sources import RFC3339, Column, ColumnType, EventSource
from speed.engine import FITS, REFUSED, UNDECIDED
from speed.flink.json_tokens import JSON_OBJECT, last_token, only_token, without_key

#: The mark of a value in a map that cannot be read for certain. No token is equal to it.
_UNCERTAIN = "?"
_INTEGER = r"^[+-]?\d+(\.0+)?$"
_CERTAIN_INTEGER = r"\A *[+-]?[0-9]{1,37}(?:\.0+)? *\z"
_CERTAIN_DECIMAL = r"\A *[+-]?(?:[0-9]{1,19}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}) *\z"
#: The ASCII texts that Java reads as a decimal.
_JAVA_DECIMAL = r"\A[\x00-\x20]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[\x00-\x20]*\z"
#: A decimal with an exponent and at most 15 digits. Spark reads such a JSON number as a double, which keeps these digits.
_CERTAIN_EXPONENT = r"\A *[+-]?(?=[0-9.]{1,16}[eE])(?:[0-9]{1,15}(?:\.[0-9]*)?|\.[0-9]+)[eE][+-]?[0-9]{1,2} *\z"
#: A JSON number whose text in Spark equals its text in the message: an integer, or a double that Java writes in the same way.
_CERTAIN_NUMBER = r"\A(?:0|-?[1-9][0-9]*+|-?(?:[1-9][0-9]{0,6}\.(?:0|[0-9]{0,7}[1-9])|0\.(?:0|0{0,2}[1-9](?:[0-9]{0,11}[1-9])?)))\z"
_NUMBER = r"\A[0-9-]"
#: A text that begins neither like an object nor like an array.
_NO_MAP = r"\A[ \t\n\r]*+[A-Za-z0-9\"'.+-]"
_ASCII = r"\A[\x00-\x7f]*\z"
_CERTAIN_TIME = (
    r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-](?:0[0-9]|1[0-7]):[0-5][0-9])\z"
)
#: The longest message, in characters. The contribution of a longer one may be too large for Kafka.
_LONGEST = 100_000
#: The first full year of the Gregorian calendar, by which Spark counts. A time in an earlier year is undecided.
_FIRST_YEAR = 1_583


@dataclass(frozen=True)
class Reading:
    """The columns that a job reads of a source's messages.

    Attributes:
        source: The source.
        texts: The columns whose values are used. A text column that is not among them never makes a message undecided.
        keys: Map column → the keys whose values are used.
    """

    source: EventSource
    texts: frozenset[str] = frozenset()
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def column(self, name: str) -> str:
        """Returns the SQL name of a column's value: a STRING, or a BIGINT (of a decimal in micro-units, of a time in ms)."""
        index, column = next((index, column) for index, column in enumerate(self.source.columns) if column.name == name)
        return f"s_{index}" if column.type is ColumnType.STRING else f"t_{index}"

    def value(self, name: str, key: str) -> str:
        """Returns the SQL name of the text of a key in a map column."""
        index = next(index for index, column in enumerate(self.source.columns) if column.name == name)
        return f"k_{index}_{list(self.keys[name]).index(key)}"


def judged_sql(reading: Reading, messages: str) -> str:
    """Returns the query that judges messages.

    Args:
        reading: The columns that the job reads.
        messages: The name of a table with `value` (BYTES), `partition`, `offset` and `timestamp`.

    Returns:
        A query with the columns `partition`, `offset`, arrival (text, UTC), verdict, and the values of `reading` by their SQL names. The values are
        valid only if the verdict is `FITS`.
    """
    columns = list(enumerate(reading.source.columns))
    place = ["`partition`", "`offset`", "arrival"]
    sql = _step(
        f"(SELECT `value`, `partition`, `offset`, CAST(`timestamp` AS STRING) AS arrival FROM {messages})",
        {**_same("`value`", *place), "message": "DECODE(`value`, 'UTF-8')"},
    )
    sql = _step(sql, {**_same(*place, "message"), "shape": _shape_sql()})
    sql = _step(
        sql,
        {
            **_same(*place, "shape"),
            **{
                f"r_{i}": f"CASE WHEN shape = {FITS} THEN REGEXP_EXTRACT(message, {text(last_token(c.name))}, 1) END"
                for i, c in columns
            },
        },
    )
    tokens = {name: sql_ for i, c in columns for name, sql_ in _map_tokens(i, reading.keys.get(c.name, ())).items()}
    sql = _step(
        sql,
        {
            **_same(*place, "shape"),
            **{f"r_{i}": f"r_{i}" for i, _ in columns},
            **{f"s_{i}": _text_of(f"r_{i}") for i, _ in columns},
            **tokens,
        },
    )
    values = {f"k_{name[2:]}": _text_of(name) for name in tokens}
    uncertain = {
        f"u_{name[2:]}": (
            f"CASE WHEN SUBSTRING({name}, 1, 1) IN ('{{', '[', '{_UNCERTAIN}') OR {_odd_number(name)} THEN {UNDECIDED} ELSE {FITS} END"
        )
        for name in tokens
    }
    tokens_and_texts = {**{f"r_{i}": f"r_{i}" for i, _ in columns}, **{f"s_{i}": f"s_{i}" for i, _ in columns}}
    plain = {f"c_{i}": _plain_sql(i) for i, c in columns if c.type is ColumnType.DECIMAL}
    if plain:
        sql = _step(sql, {**_same(*place, "shape"), **tokens_and_texts, **_same(*tokens), **plain})
    parts = {name: sql_ for i, c in columns for name, sql_ in _parts(i, c).items()}
    sql = _step(sql, {**_same(*place, "shape"), **tokens_and_texts, **_same(*plain), **values, **uncertain, **parts})
    through = _same(*place, "shape", *values, *uncertain)
    typed = {f"t_{i}": t for i, c in columns if (t := _typed(i, c))}
    sql = _step(sql, {**through, **tokens_and_texts, **_same(*parts, *plain), **typed})
    verdicts = {f"v_{i}": _verdict(i, c, reading) for i, c in columns}
    texts = {f"s_{i}": f"s_{i}" for i, c in columns if c.type is ColumnType.STRING}
    sql = _step(sql, {**through, **texts, **_same(*typed), **verdicts})
    refused, undecided = (
        " OR ".join(f"{name} = {verdict}" for name in (*verdicts, *uncertain)) for verdict in (REFUSED, UNDECIDED)
    )
    verdict = (
        f"CASE WHEN shape <> {FITS} THEN shape WHEN {refused} THEN {REFUSED} WHEN {undecided} THEN {UNDECIDED} ELSE {FITS} END"
    )
    return _step(sql, {**_same(*place), **texts, **_same(*typed, *values), "verdict": verdict})


def text(value: str) -> str:
    """Returns a text as a literal of SQL."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def _step(source: str, columns: Mapping[str, str]) -> str:
    """Returns a query that the planner does not join with the next query.

    The condition `RAND() < 2` is always true. The planner takes it for random, so it does not copy the column to each place that uses it.
    """
    names = [sql if sql == name else f"CASE WHEN RAND() < 2 THEN {sql} END AS {name}" for name, sql in columns.items()]
    return f"(SELECT {', '.join(names)} FROM {source})"


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _shape_sql() -> str:
    """Returns the SQL of the verdict on the form of a message.

    `FITS` if the message is certainly a JSON object, `REFUSED` if it certainly is none, `UNDECIDED` otherwise.
    """
    half = f"REGEXP(message, '\\\\u[dD]') AND REGEXP(REGEXP_REPLACE(message, {text(WHOLE_PAIRS)}, ' '), {text(HALF)})"
    bounded = (
        "CHAR_LENGTH(message) < 100000 AND NOT REGEXP(message, '[0-9]{900}') AND NOT REGEXP(message, '(?:[\\[{][^\\[{]*+){400}')"
    )
    wrapped = """CONCAT('{"e":', message, ',"end":1}') IS JSON OBJECT"""
    return (
        f"CASE WHEN message IS NULL OR ENCODE(message, 'UTF-8') <> `value` THEN {REFUSED} "
        f"WHEN CHAR_LENGTH(message) > {_LONGEST} THEN {UNDECIDED} "
        f"WHEN REGEXP(message, {text(JSON_OBJECT)}) THEN CASE WHEN {half} THEN {REFUSED} ELSE {FITS} END "
        rf"WHEN REGEXP(message, '\A[ \t\n\r]*+[^{{ \t\n\r]') OR {bounded} AND NOT ({wrapped}) THEN {REFUSED} ELSE {UNDECIDED} END"
    )


def _text_of(token: str) -> str:
    """Returns the SQL of the text of a token: NULL for the token `null`, for an object or an array, and for an uncertain value."""
    unescaped = f"""JSON_VALUE(CONCAT('{{"v":', {token}, '}}'), '$.v')"""
    plain = f"CASE WHEN POSITION('\\' IN {token}) = 0 THEN SUBSTRING({token}, 2, CHAR_LENGTH({token}) - 2) ELSE {unescaped} END"
    return (
        f"CASE WHEN {token} = 'null' OR SUBSTRING({token}, 1, 1) IN ('{{', '[', '{_UNCERTAIN}') THEN CAST(NULL AS STRING) "
        f"WHEN SUBSTRING({token}, 1, 1) = '\"' THEN {plain} ELSE {token} END"
    )


def _odd_number(token: str) -> str:
    """Returns the condition that a token is a number whose text in Spark may differ from the token."""
    return f"(REGEXP({token}, {text(_NUMBER)}) AND NOT REGEXP({token}, {text(_CERTAIN_NUMBER)}))"


def _plain_sql(index: int) -> str:
    """Returns the SQL of the text of a decimal column; a certain exponent is resolved."""
    value = f"s_{index}"
    plain = f"CAST(TRY_CAST(TRIM({value}) AS DECIMAL(38, 18)) AS STRING)"
    return f"CASE WHEN REGEXP({value}, {text(_CERTAIN_EXPONENT)}) THEN {plain} ELSE {value} END"


def _map_tokens(index: int, keys: Sequence[str]) -> dict[str, str]:
    """Returns the SQL of the tokens of a map's values: column → expression, one for each key."""
    raw = f"r_{index}"
    return {
        f"q_{index}_{place}": (
            f"CASE WHEN SUBSTRING({raw}, 1, 1) <> '{{' OR {raw} IS NULL OR REGEXP({raw}, {text(without_key(key))}) THEN 'null' "
            f"ELSE COALESCE(REGEXP_EXTRACT({raw}, {text(only_token(key))}, 1), '{_UNCERTAIN}') END"
        )
        for place, key in enumerate(keys)
    }


def _parts(index: int, column: Column) -> dict[str, str]:
    """Returns the SQL of the parts of a number or a time: column → expression. A part is NULL if the form of the value is not certain."""
    value = f"s_{index}"
    if column.type is ColumnType.INT64:
        digits = f"REGEXP_EXTRACT({value}, '[+-]?[0-9]+', 0)"
        return {f"n_{index}": f"CASE WHEN REGEXP({value}, {text(_CERTAIN_INTEGER)}) THEN CAST({digits} AS DECIMAL(38, 0)) END"}
    if column.type is ColumnType.DECIMAL:
        value = f"c_{index}"
        whole, fraction = (
            rf"CONCAT('0', REGEXP_EXTRACT({value}, '\A *[+-]?([0-9]*)', 1))",
            rf"REGEXP_EXTRACT({value}, '\.([0-9]*)', 1)",
        )
        certain = f"REGEXP({value}, {text(_CERTAIN_DECIMAL)})"
        return {
            f"n_{index}": f"CASE WHEN {certain} THEN CAST({whole} AS DECIMAL(38, 0)) END",
            f"f_{index}": f"CASE WHEN {certain} THEN RPAD(CONCAT(COALESCE({fraction}, ''), '0'), 18, '0') END",
        }
    if column.type is ColumnType.TIMESTAMP:
        certain = f"REGEXP({value}, {text(_CERTAIN_TIME)})"
        places = {"y": (1, 4), "mo": (6, 2), "d": (9, 2), "h": (12, 2), "mi": (15, 2), "se": (18, 2)}
        numbers = {name: f"CAST(SUBSTRING({value}, {at}, {length}) AS BIGINT)" for name, (at, length) in places.items()}
        length = f"CHAR_LENGTH({value})"
        zone = f"(CAST(SUBSTRING({value}, {length} - 4, 2) AS BIGINT) * 60 + CAST(SUBSTRING({value}, {length} - 1, 2) AS BIGINT))"
        sign = f"SUBSTRING({value}, {length} - 5, 1)"
        numbers["of"] = (
            f"CASE WHEN UPPER(SUBSTRING({value}, {length}, 1)) = 'Z' THEN CAST(0 AS BIGINT) WHEN {sign} = '-' THEN -{zone} ELSE {zone} END"
        )
        numbers["ms"] = rf"CAST(SUBSTRING(CONCAT(COALESCE(REGEXP_EXTRACT({value}, '\.([0-9]+)', 1), ''), '000'), 1, 3) AS BIGINT)"
        return {f"{name}_{index}": f"CASE WHEN {certain} THEN {sql} END" for name, sql in numbers.items()}
    return {}


def _typed(index: int, column: Column) -> str:
    """Returns the SQL of a number or a time in whole units (a decimal in micro-units, a time in ms); it is NULL if the text has no such value.

    The result is empty for a text or a map.
    """
    if column.type is ColumnType.INT64:
        number = f"n_{index}"
        return f"CASE WHEN {number} BETWEEN -9223372036854775808 AND 9223372036854775807 THEN CAST({number} AS BIGINT) END"
    if column.type is ColumnType.DECIMAL:
        # Rounds half to even in whole numbers: the digits after the sixth decimal place are compared with a half.
        micros = f"(CAST(n_{index} AS BIGINT) * 1000000 + CAST(SUBSTRING(f_{index}, 1, 6) AS BIGINT))"
        rest = f"CAST(SUBSTRING(f_{index}, 7, 12) AS BIGINT)"
        half = 500_000_000_000
        up = f"CASE WHEN {rest} > {half} OR ({rest} = {half} AND MOD({micros}, 2) = 1) THEN 1 ELSE 0 END"
        sign = rf"CASE WHEN REGEXP(c_{index}, '\A *-') THEN -1 ELSE 1 END"
        return f"CASE WHEN n_{index} < 1000000000000 THEN ({micros} + {up}) * {sign} END"
    if column.type is ColumnType.TIMESTAMP:
        y, mo, d, h, mi, se, of, ms = (f"{name}_{index}" for name in ("y", "mo", "d", "h", "mi", "se", "of", "ms"))
        year = f"({y} - CASE WHEN {mo} < 3 THEN 1 ELSE 0 END)"
        days = f"(365 * {year} + {year} / 4 - {year} / 100 + {year} / 400 + (153 * MOD({mo} + 9, 12) + 2) / 5 + {d} - 1 - 719468)"
        leap = f"CASE WHEN MOD({y}, 4) = 0 AND (MOD({y}, 100) <> 0 OR MOD({y}, 400) = 0) THEN 29 ELSE 28 END"
        last = f"CASE WHEN {mo} = 2 THEN {leap} WHEN {mo} IN (4, 6, 9, 11) THEN 30 ELSE 31 END"
        valid = f"{mo} BETWEEN 1 AND 12 AND {d} BETWEEN 1 AND {last} AND {h} < 24 AND {mi} < 60 AND {se} < 60"
        return f"CASE WHEN {valid} THEN ({days} * 86400 + {h} * 3600 + {mi} * 60 + {se} - {of} * 60) * 1000 + {ms} END"
    return ""


def _verdict(index: int, column: Column, reading: Reading) -> str:
    """Returns the SQL of the verdict on the value of a column."""
    raw, value, typed = f"r_{index}", f"s_{index}", f"t_{index}"
    missing = REFUSED if column.required else FITS
    nested = f"SUBSTRING({raw}, 1, 1) IN ('{{', '[')"
    empty = f"{value} IS NULL OR TRIM({value}) = ''"
    if column.type is ColumnType.STRING:
        unread = UNDECIDED if column.name in reading.texts else FITS
        return f"CASE WHEN {nested} OR {_odd_number(raw)} THEN {unread} WHEN {empty} THEN {missing} ELSE {FITS} END"
    if column.type is ColumnType.MAP:
        return (
            rf"CASE WHEN SUBSTRING({raw}, 1, 1) = '{{' OR REGEXP({raw}, '\A\[[ \t\n\r]*\]\z') THEN {FITS} "
            f"WHEN SUBSTRING({raw}, 1, 1) = '[' THEN {UNDECIDED} WHEN {empty} THEN {missing} "
            f"WHEN REGEXP({value}, {text(_NO_MAP)}) THEN {REFUSED} ELSE {UNDECIDED} END"
        )
    begin = f"CASE WHEN {nested} THEN {REFUSED} WHEN {empty} THEN {missing}"
    if column.type is ColumnType.INT64:
        certain = f"n_{index} IS NOT NULL"
        begin = f"{begin} WHEN {_odd_number(raw)} THEN {UNDECIDED}"
        return f"{begin} WHEN {typed} IS NOT NULL THEN {FITS} WHEN {certain} OR NOT REGEXP(TRIM({value}), {text(_INTEGER)}) THEN {REFUSED} ELSE {UNDECIDED} END"
    if column.type is ColumnType.DECIMAL:
        bounded = f"ABS({typed}) < 1000000000000000000"
        none = f"REGEXP({value}, {text(_ASCII)}) AND NOT REGEXP({value}, {text(_JAVA_DECIMAL)})"
        return f"{begin} WHEN {bounded} THEN {FITS} WHEN n_{index} IS NOT NULL OR ({none}) THEN {REFUSED} ELSE {UNDECIDED} END"
    outside = (
        f"{typed} < {reading.source.earliest_ms} OR {typed} >= {reading.source.latest_ms}"
        if column.name == reading.source.time
        else "FALSE"
    )
    # The pattern is made for a literal of Spark, which has each backslash twice.
    no_time = f"NOT REGEXP({value}, {text(RFC3339.replace(chr(92) * 2, chr(92)))})"
    return (
        f"{begin} WHEN y_{index} < {_FIRST_YEAR} THEN {UNDECIDED} WHEN {outside} THEN {REFUSED} WHEN {typed} IS NOT NULL THEN {FITS} "
        f"WHEN y_{index} IS NOT NULL OR {no_time} THEN {REFUSED} ELSE {UNDECIDED} END"
    )
