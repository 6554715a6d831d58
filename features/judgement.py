"""The verdict on an event: SQL that converts a Kafka message, a line of JSON or a row of a file into typed columns and a reason.

Reads messages (`value`) or raw rows (text columns); gives the typed columns of the source, `ts_ms`, and `_reason`: why the event does
not fit, or NULL. The stream, the archive and the loading of files apply the same projections, so the same bytes get the same verdict,
the same values and the same reason in each of them.

These rules are stricter than Spark's JSON reader: a message is exactly one JSON object, strings are in double quotes, and the text is
Unicode. If a key occurs twice, the last value counts, as in most readers. Decimals keep their digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.sources import Column, ColumnType, EventSource

#: The column of a raw row with the reason why the row could not be read; NULL for a readable row.
MISFIT = "_misfit"
#: A list of expressions for `selectExpr`.
Projection = list[str]

_STRICT = "'allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false', 'columnNameOfCorruptRecord', '_corrupt'"
#: A high and a low surrogate in sequence are one character. An escaped backslash begins no escape. As a regular expression of Java.
WHOLE_PAIRS = r"\\\\|\\u[dD][89abAB]\p{XDigit}{2}\\u[dD][c-fC-F]\p{XDigit}{2}"
#: A half of such a pair.
HALF = r"\\u[dD][89a-fA-F]\p{XDigit}{2}"


def message_projections(
    source: EventSource, keep: Mapping[str, str], arrival_ms_sql: str, future_ms: int
) -> tuple[Projection, ...]:
    """The projections that judge messages, to be applied in this order.

    Args:
        source: The contract.
        keep: Name → a column of the message that stays under this name, which must differ from the columns of the source. The column
            `value` (binary) is read in any case and stays if it is named.
        arrival_ms_sql: The time of arrival in milliseconds: an expression over the names in `keep`, or a literal.
        future_ms: How far the time of an event may lie after its arrival. An event with a later time would move the watermark, so that
            the stream would drop the events after it.
    """
    columns = ", ".join(f"`{column.name}`: {_json_type(column)}" for column in source.columns)
    # Spark reads the first document of a text and ignores the rest. Inside an enclosing object the rest is a syntax error.
    schema = f"e STRUCT<{columns}>, `end` STRING, `_corrupt` STRING"
    text = "CAST(value AS STRING)"
    document = f"from_json(concat('{{\"e\":', {text}, ',\"end\":1}}'), '{schema}', map({_STRICT})) AS _message_json"
    texts = [f"CAST(_message_json.e.`{column.name}` AS STRING) AS `{column.name}`" for column in source.columns]
    whole = "_message_json._corrupt IS NULL AND _message_json.`end` IS NOT NULL AND _message_json.e IS NOT NULL AS _message_whole"
    first = f"from_json(IF(_message_whole, NULL, _message_text), 'x STRING, `_corrupt` STRING', map({_STRICT})) AS _message_first"
    # A source may have a column `value`.
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
    """The projections that judge raw rows, which have the source's columns as texts and `MISFIT`; `keep` names further columns that stay."""
    parsed = [*keep, *_raw(source), *_maps(source).values(), MISFIT]
    return (parsed, *_verdict(source, keep, arrival_ms_sql, future_ms))


def _raw(source: EventSource) -> list[str]:
    return [f"`{column.name}`" for column in source.columns]


def _maps(source: EventSource) -> dict[str, str]:
    """Typed column of a map → what computes it.

    Spark generates no code for the parsing of JSON, nor for any other expression of a projection that has it: for these it would generate code anew
    in each task. So the parsing stands in projections of its own, with names alone.
    """
    return {
        column.typed_name: f"{column.typed_sql()} AS {column.typed_name}"
        for column in source.columns
        if column.type is ColumnType.MAP
    }


def _verdict(source: EventSource, keep: Sequence[str], arrival_ms_sql: str, future_ms: int) -> tuple[Projection, Projection]:
    """The projections that convert and judge rows that have the raw columns, the maps and `MISFIT`."""
    raw, maps = _raw(source), _maps(source)
    converted = [column for column in source.columns if column.type not in (ColumnType.STRING, ColumnType.MAP)]
    # A conversion has a projection of its own, so it is computed once, though the next projection uses it more than once.
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
    """The type through which a JSON value becomes a text. A decimal goes through VARIANT, which keeps all its digits."""
    return "VARIANT" if column.type is ColumnType.DECIMAL else "STRING"


def _exact_sql(column: Column) -> str:
    """The text of a column with the digits that a number has in the message.

    Spark makes a text of a number by a double: 1.234567E7 of 12345670.0, and of 1234567890.1699999999 one with fewer digits. Then the digits are
    those of the key in the message whose number is the same double.
    """
    name = f"`{column.name}`"
    if column.type is ColumnType.INT64:
        rounded, number = f"contains({name}, 'E')", r"(-?\d+)\.0+"
    elif column.type is ColumnType.STRING:
        # A double's text has at most 17 digits, or an exponent.
        rounded = rf"(length({name}) > 16 OR contains({name}, 'E')) AND {name} RLIKE r'^-?\d+\.\d+(E-?\d+)?$'"
        number = r"(-?\d+\.\d+)"
    else:
        return name
    digits = rf"""regexp_extract(_message_text, r'"\Q{column.name}\E"\s*:\s*{number}\s*[,}}]', 1)"""
    return f"IF({rounded} AND try_cast({digits} AS DOUBLE) = try_cast({name} AS DOUBLE), {digits}, {name}) AS {name}"


def _message_misfit_sql(source: EventSource) -> str:
    """The reason why the message (`_message_value`, `_message_text`, `_message_json`) is no event, or NULL."""
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
    half = rf"(contains(_message_text, r'\ud') OR contains(_message_text, r'\uD')) AND regexp_replace(_message_text, r'{WHOLE_PAIRS}', ' ') RLIKE r'{HALF}'"
    return (
        "CASE WHEN _message_value IS NULL THEN 'the message has no value: a tombstone' "
        f"WHEN NOT is_valid_utf8(_message_text) THEN {binary} "
        f"WHEN NOT _message_whole THEN {broken} "
        f"WHEN {half} THEN 'the message holds half a surrogate pair, which is no character' "
        f"WHEN {nothing} THEN concat('the message has no column of {source.name}; its keys are: ', "
        "left(array_join(json_object_keys(_message_text), ', '), 80)) END"
    )
