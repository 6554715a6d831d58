"""The verdict on an event: SQL that converts a Kafka message, a line of JSON or a row of a file into typed columns and a reason.

The projections read messages (`value`) or raw rows (text columns). They return the typed columns of the source, `ts_ms` (the time of the event in
ms since 1970), and `_reason`: why the event does not fit its source, NULL if it fits. The stream, the archive and the loading of files apply the
same projections, so each of them computes the same verdict, values and reason from the same bytes.

These rules are stricter than Spark's JSON reader: a message is exactly one JSON object, strings are in double quotes, and the text is
Unicode. If a key occurs twice, the last value counts, as in most readers. Decimals keep their digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.sources import Column, ColumnType, EventSource

#: The name of the column of a raw row with the reason why the row could not be read; NULL for a readable row.
MISFIT = "_misfit"
#: A list of expressions for `selectExpr`.
Projection = list[str]

_STRICT = "'allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false', 'columnNameOfCorruptRecord', '_corrupt'"
#: A regular expression of Java for the escapes of a high and a low surrogate in sequence, which are one character. It also matches an escaped
#: backslash, because that does not begin an escape.
WHOLE_PAIRS = r"\\\\|\\u[dD][89abAB]\p{XDigit}{2}\\u[dD][c-fC-F]\p{XDigit}{2}"
#: A regular expression of Java for the escape of one surrogate of such a pair.
HALF = r"\\u[dD][89a-fA-F]\p{XDigit}{2}"


def message_projections(
    source: EventSource, keep: Mapping[str, str], arrival_ms_sql: str, future_ms: int
) -> tuple[Projection, ...]:
    """Returns the projections that compute the verdict on messages, in the order in which they must be applied.

    Args:
        source: The source of the messages.
        keep: Name → a column of the message, which the result contains under this name. A name must differ from the columns of the source. The
            column `value` (binary) is always read; the result contains it only if `keep` names it.
        arrival_ms_sql: The time of arrival, in ms since 1970: a SQL expression over the names in `keep`, or a literal.
        future_ms: The longest time, in ms, by which the time of an event may lie after its arrival. An event with a later time would move the
            watermark, so that the stream would drop later events as late.
    """
    columns = ", ".join(f"`{column.name}`: {_json_type(column)}" for column in source.columns)
    # Spark reads the first JSON document of a text and ignores the rest. Inside an enclosing object, the rest is a syntax error.
    schema = f"e STRUCT<{columns}>, `end` STRING, `_corrupt` STRING"
    text = "CAST(value AS STRING)"
    document = f"from_json(concat('{{\"e\":', {text}, ',\"end\":1}}'), '{schema}', map({_STRICT})) AS _message_json"
    texts = [f"{_text_sql(column)} AS `{column.name}`" for column in source.columns]
    whole = "_message_json._corrupt IS NULL AND _message_json.`end` IS NOT NULL AND _message_json.e IS NOT NULL AS _message_whole"
    first = f"from_json(IF(_message_whole, NULL, _message_text), 'x STRING, `_corrupt` STRING', map({_STRICT})) AS _message_first"
    # A source may have a column `value`, so the value of the message gets another name.
    message = ["_message_value", "_message_text", "_message_json", "_message_whole"]
    raw, maps = _raw(source), _maps(source)
    return (
        [*(f"{column} AS {name}" for name, column in keep.items()), f"value AS {message[0]}", f"{text} AS {message[1]}", document],
        [*keep, *message[:-1], whole, *texts],
        [*keep, *message, *raw, first, *maps.values()],
        [*keep, *map(_exact_sql, source.columns), *maps, f"{_message_misfit_sql(source)} AS {MISFIT}"],
        *_verdict(source, list(keep), arrival_ms_sql, future_ms),
    )


def row_projections(source: EventSource, keep: Sequence[str], arrival_ms_sql: str, future_ms: int) -> tuple[Projection, ...]:
    """Returns the projections that compute the verdict on raw rows, in the order in which they must be applied.

    Args:
        source: The source of the rows. A raw row has its columns as texts, and `MISFIT`.
        keep: The names of further columns of a raw row, which the result contains as well.
        arrival_ms_sql: As in `message_projections`.
        future_ms: As in `message_projections`.
    """
    parsed = [*keep, *_raw(source), *_maps(source).values(), MISFIT]
    return (parsed, *_verdict(source, keep, arrival_ms_sql, future_ms))


def _raw(source: EventSource) -> list[str]:
    return [f"`{column.name}`" for column in source.columns]


def _maps(source: EventSource) -> dict[str, str]:
    """Returns a mapping: typed column of a map → the SQL expression that computes it.

    Spark generates no code for the parsing of JSON, nor for the other expressions of a projection that parses JSON; for these expressions it would
    generate code again in each task. So a projection that parses JSON otherwise contains only names of columns.
    """
    return {
        column.typed_name: f"{column.typed_sql()} AS {column.typed_name}"
        for column in source.columns
        if column.type is ColumnType.MAP
    }


def _verdict(source: EventSource, keep: Sequence[str], arrival_ms_sql: str, future_ms: int) -> tuple[Projection, Projection]:
    """Returns the projections that convert rows with the raw columns, the maps and `MISFIT`, and compute the verdict on them."""
    raw, maps = _raw(source), _maps(source)
    converted = [column for column in source.columns if column.type not in (ColumnType.STRING, ColumnType.MAP)]
    # The conversions have a projection of their own, so each is computed once, although the next projection uses it more than once.
    typed = [f"{column.typed_sql()} AS {column.typed_name}" for column in converted]
    values = [f"{column.typed_name} AS `{column.name}`" for column in source.columns]
    time = next(column for column in source.columns if column.name == source.time)
    # unix_millis rounds down, also before 1970, so no event enters a half-open window early.
    ts_ms = f"unix_millis({time.typed_name})"
    whens = [f"WHEN {MISFIT} IS NOT NULL THEN {MISFIT}"]
    whens += [reason for column in source.columns if (reason := column.reason_sql())]
    for outside, side, day in (
        (f"{ts_ms} < {source.earliest_ms}", "before", source.earliest),
        (f"{ts_ms} >= {source.latest_ms}", "after", source.latest),
    ):
        whens.append(f"WHEN {outside} THEN concat('{time.name} lies {side} {day}: ', `{time.name}`)")
    ahead = f"{ts_ms} - ({arrival_ms_sql})"
    whens.append(f"WHEN {ahead} > {future_ms} THEN concat('{time.name} lies after the arrival, in ms: ', {ahead})")
    return (
        [*keep, *raw, *maps, MISFIT, *typed],
        [*keep, *values, f"{ts_ms} AS ts_ms", f"CASE {' '.join(whens)} END AS _reason"],
    )


def _json_type(column: Column) -> str:
    """Returns the type as which a JSON value is parsed before it becomes a text. For a decimal it is VARIANT, which keeps all digits."""
    return "VARIANT" if column.type is ColumnType.DECIMAL else "STRING"


def _text_sql(column: Column) -> str:
    """Returns a SQL expression for the text of a parsed JSON value."""
    value = f"_message_json.e.`{column.name}`"
    if _json_type(column) == "STRING":
        return value
    # Spark plans each cast of a variant anew, which takes a quarter of the time of parsing a message. Only a text with an escape needs it.
    json = f"to_json({value})"
    return (
        f"""CASE WHEN NOT startswith({json}, '"') THEN nullif({json}, 'null') """
        rf"""WHEN NOT contains({json}, r'\') THEN substring({json}, 2, length({json}) - 2) ELSE CAST({value} AS STRING) END"""
    )


def _exact_sql(column: Column) -> str:
    """Returns a SQL expression for the text of a column, with the digits that a number has in the message.

    Spark converts a JSON number to a text through a double: 12345670.0 becomes 1.234567E7, and 1234567890.1699999999 loses digits. In these cases
    the text is the first number after the column's key in the message, if that number is the same double.
    """
    name = f"`{column.name}`"
    if column.type is ColumnType.INT64:
        rounded, number = f"contains({name}, 'E')", r"(-?\d+)\.0+"
    elif column.type is ColumnType.STRING:
        # The text of a double has at most 17 digits, or an exponent.
        rounded = rf"(length({name}) > 16 OR contains({name}, 'E')) AND {name} RLIKE r'^-?\d+\.\d+(E-?\d+)?$'"
        number = r"(-?\d+\.\d+)"
    else:
        return name
    digits = rf"""regexp_extract(_message_text, r'"\Q{column.name}\E"\s*:\s*{number}\s*[,}}]', 1)"""
    return f"IF({rounded} AND try_cast({digits} AS DOUBLE) = try_cast({name} AS DOUBLE), {digits}, {name}) AS {name}"


def _message_misfit_sql(source: EventSource) -> str:
    """Returns a SQL expression for the reason why a message is not an event; NULL for an event.

    The expression reads the columns `_message_value`, `_message_text`, `_message_json`, `_message_whole` and `_message_first`.
    """
    nothing = " AND ".join(f"_message_json.e.`{column.name}` IS NULL" for column in source.columns)
    registry = "'the message begins with a zero byte, as the serializer of a schema registry writes it'"
    binary = (
        f"CASE WHEN startswith(_message_value, X'00') THEN {registry} WHEN startswith(_message_value, X'1F8B') "
        "THEN 'the message is compressed by gzip' ELSE 'the message is not text in UTF-8' END"
    )
    broken = (
        r"CASE WHEN _message_text RLIKE r'^\s*$' THEN 'the message is empty' "
        f"WHEN startswith(_message_value, X'00') THEN {registry} "
        "WHEN startswith(_message_value, X'EFBBBF') THEN 'the message begins with a byte order mark' "
        r"WHEN _message_json.`end` IS NOT NULL AND _message_text RLIKE r'^\s*\[' THEN 'the message is a JSON array, not one JSON object' "
        "WHEN _message_json.`end` IS NOT NULL AND _message_json.e IS NULL THEN 'the message is JSON, but not an object' "
        "WHEN _message_json.`end` IS NOT NULL THEN 'a number column of the message holds what is no value' "
        "WHEN json_object_keys(_message_text) IS NOT NULL AND _message_first._corrupt IS NULL THEN 'there is text behind the JSON object of the message' "
        "ELSE 'the message is not a JSON object' END"
    )
    half = rf"contains(_message_text, r'\u') AND (contains(_message_text, r'\ud') OR contains(_message_text, r'\uD')) AND regexp_replace(_message_text, r'{WHOLE_PAIRS}', ' ') RLIKE r'{HALF}'"
    return (
        "CASE WHEN _message_value IS NULL THEN 'the message has no value: a tombstone' "
        f"WHEN NOT is_valid_utf8(_message_text) THEN {binary} "
        f"WHEN NOT _message_whole THEN {broken} "
        f"WHEN {half} THEN 'the message holds half a surrogate pair, which is no character' "
        f"WHEN {nothing} THEN concat('the message has no column of {source.name}; its keys are: ', "
        "left(array_join(json_object_keys(_message_text), ', '), 80)) END"
    )
