"""One contract, one code: the same bytes in a file, in the stream and in the archive get the same verdict, values and reason."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from batch.events import ingest_archive
from batch.load import load_events
from braid.testing import features_at
from features.declaration import FeatureGroup, count, last_k, total
from features.errors import BraidError
from features.instants import rfc3339
from features.judgement import MISFIT, row_projections
from features.sources import Column, ColumnType, EventSource
from features.windows import DAY_MS
from infra.settings import Settings
from speed.archive import create_archive
from speed.stream import judged
from tests.archive import append_messages

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.usefixtures("compiled")

CLICKS = EventSource(
    name="clicks",
    topic="clicks",
    table="click_events",
    columns=(
        Column("event_id", required=True),
        Column("user_id", ColumnType.INT64, required=True),
        Column("kind", required=True),
        Column("amount", ColumnType.DECIMAL),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
        Column("item"),
        Column("value"),
        Column("offset", ColumnType.INT64),
        Column("properties", ColumnType.MAP),
    ),
)
NAMES = [column.name for column in CLICKS.columns]


def line(index: int, **values: str) -> str:
    """A JSON line of raw JSON values: those that fit but for the ones given; a value '' leaves its key out."""
    fitting = {"event_id": f'"e{index}"', "user_id": str(index), "kind": '"VIEW"', "event_timestamp": '"2026-01-02T03:04:05.678Z"'}
    return "{" + ",".join(f'"{name}":{value}' for name, value in {**fitting, **values}.items() if value) + "}"


#: Each line, and the reason why it does not fit; None where it does.
LINES: list[tuple[str | bytes, str | None]] = [
    (line(0), None),
    (line(1, amount="123456789012.123456"), None),
    (line(2, properties="{}"), None),
    (line(3, properties="[ ]"), None),
    (line(4, properties="[1]"), "properties is not a JSON object: [1]"),
    (line(5, properties='"x"'), "properties is not a JSON object: x"),
    (line(6, properties='{"a":"b","n":{"x":[1]}}'), None),
    (line(7, properties="null", item="null", amount="null"), None),
    (line(8, user_id="2.8e+03"), None),
    (line(9, user_id='1,"user_id":9'), None),
    (line(10, user_id="1.23457e+09"), "user_id is not a 64-bit integer: 1.23457E9"),
    (line(11, user_id="9223372036854775808"), "user_id is not a 64-bit integer: 9223372036854775808"),
    (line(12, user_id='{"id":12}'), 'user_id is not a 64-bit integer: {"id":12}'),
    (line(13, user_id="NaN"), "the message is not a JSON object"),
    (line(14, user_id="007"), "the message is not a JSON object"),
    (line(15, user_id='"15.0"'), None),
    (line(16, user_id=""), "user_id is missing"),
    (line(17, event_id='""'), "event_id is missing"),
    (line(18, item=r'"\ud83d"'), "the message holds half a surrogate pair, which is no character"),
    (line(19, item=r'"\uDE00\uD83D"'), "the message holds half a surrogate pair, which is no character"),
    (line(20, item=r'"\ud83d\ude00"'), None),
    (line(21, item=r'"\\ud83d"'), None),
    (line(22, item=r'"a\x"'), "the message is not a JSON object"),
    (line(23, item='"a\x01"'), "the message is not a JSON object"),
    (line(24, item='" blank "'), None),
    (line(25, amount='"12,50"'), "amount is not a decimal below 10^12: 12,50"),
    (line(26, amount='{"x":1,"x":2}'), "a number column of the message holds what is no value"),
    (line(27, amount="1e12"), "amount is not a decimal below 10^12: 1.0E12"),
    (line(28, event_timestamp='"2026-01-02 03:04:05"'), "event_timestamp is not an RFC 3339 time with an offset: 2026-01-02 03:04:05"),
    (line(29, event_timestamp="1767323045000"), "event_timestamp is not an RFC 3339 time with an offset: 1767323045000"),
    (line(30, event_timestamp='"2026-02-30T00:00:00Z"'), "event_timestamp is not an RFC 3339 time with an offset: 2026-02-30T00:00:00Z"),
    (line(31, event_timestamp='"0001-01-01T00:00:00Z"'), "event_timestamp lies before 1970-01-02: 0001-01-01T00:00:00Z"),
    (line(32, event_timestamp='"0000-06-01T00:00:00Z"'), "event_timestamp lies before 1970-01-02: 0000-06-01T00:00:00Z"),
    (line(33, event_timestamp='"1969-12-31T23:59:59.999Z"'), "event_timestamp lies before 1970-01-02: 1969-12-31T23:59:59.999Z"),
    (line(34, event_timestamp='"1970-01-01T00:00:00+00:00"'), "event_timestamp lies before 1970-01-02: 1970-01-01T00:00:00+00:00"),
    (line(80, event_timestamp='"1970-01-02T00:00:00+00:00"'), None),
    (line(35, event_timestamp='"2200-01-01T00:00:00Z"'), "event_timestamp lies after 2200-01-01: 2200-01-01T00:00:00Z"),
    (line(36) + line(36), "there is text behind the JSON object of the message"),
    (line(37) + "," + line(37), "there is text behind the JSON object of the message"),
    (line(38) + "}", "there is text behind the JSON object of the message"),
    (line(39) + " x", "there is text behind the JSON object of the message"),
    (line(40)[:-1], "the message is not a JSON object"),
    (line(41).replace('"', "'"), "the message is not a JSON object"),
    (f"[{line(42)}]", "the message is a JSON array, not one JSON object"),
    ("null", "the message is JSON, but not an object"),
    ('{"before":null,"after":{"event_id":"e43"}}', "the message has no column of clicks; its keys are: before, after"),
    (line(44) + "\r", None),
    ('{"":0,' + line(45)[1:], None),
    (b"\x00\x00\x00\x00\x07" + line(46).encode(), "the message begins with a zero byte, as the serializer of a schema registry writes it"),
    (line(47, item='"caf\xe9"').encode("latin-1"), "the message is not text in UTF-8"),
    (line(48, properties='{"a":1,"a":2}'), None),
    ("not json", "the message is not a JSON object"),
    (line(49, value='"v"', offset="7"), None),
    (line(50, offset='"x"'), "offset is not a 64-bit integer: x"),
    (line(51, user_id="12345670.0", offset="9007199254740993.00"), None),
    (line(52, user_id="9223372036854775808.0"), "user_id is not a 64-bit integer: 9223372036854775808"),
    (line(53, user_id="12345678.5"), "user_id is not a 64-bit integer: 1.23456785E7"),
    (line(54, item="1234567890.1699999999", value="12345678.0"), None),
    (line(55, properties='{"item":1500000000.5}', item='"1.5E9"', value="-0.00012", offset="-12345670.0"), None),
    (line(56, item="1234567.0", value="1.5e10"), None),
    (b"\x00\x00\x00\x00\x07\x06\xfe\xff", "the message begins with a zero byte, as the serializer of a schema registry writes it"),
    (b"\x1f\x8b\x08\x00\x01\x02", "the message is compressed by gzip"),
    (b"Obj\x01\xfe\xff", "the message is not text in UTF-8"),
]  # fmt: skip


def verdicts(frame: DataFrame, order: str) -> list[tuple[Any, ...]]:
    """Per row the reason, or the typed values."""
    frame = frame.orderBy(order).withColumn("event_timestamp", F.when(F.isnull("_reason"), F.col("event_timestamp")))
    rows = frame.select("_reason", *NAMES).collect()
    return [(row["_reason"],) if row["_reason"] else tuple(row) for row in rows]


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    return [line.encode() if isinstance(line, str) else line for line, _ in LINES]


@pytest.fixture(scope="module")
def streamed(spark: SparkSession, settings: Settings, messages: list[bytes]) -> list[tuple[Any, ...]]:
    """What the speed layer's own expressions say."""
    rows = [(None, value, 0, offset, int(time.time() * 1_000)) for offset, value in enumerate(messages)]
    frame = spark.createDataFrame(rows, "key BINARY, value BINARY, partition INT, offset BIGINT, arrival_ms BIGINT")
    return verdicts(judged(settings, frame, CLICKS, {"_offset": "offset"}), "_offset")


def test_the_stream_gives_each_line_its_true_reason(streamed: list[tuple[Any, ...]]) -> None:
    assert [row[0] for row in streamed] == [reason for _, reason in LINES]
    by_id = {row[1]: row for row in streamed if row[0] is None}
    assert str(by_id["e1"][4]) == "123456789012.123456"
    assert by_id["e3"][-1] == {}
    assert by_id["e7"][4:] == (None, by_id["e7"][5], None, None, None, None)
    assert (by_id["e8"][2], by_id["e9"][2], by_id["e15"][2]) == (2800, 9, 15)
    assert (by_id["e51"][2], by_id["e51"][8]) == (12_345_670, 9_007_199_254_740_993), "no digit goes through a double"
    assert by_id["e54"][6:8] == ("1234567890.1699999999", "12345678.0")
    assert by_id["e55"][6:9] == ("1.5E9", "-0.00012", -12_345_670)
    assert by_id["e56"][6:8] == ("1234567.0", "1.5E10")
    assert by_id["e49"][7:9] == ("v", 7), "columns may have the names that a message's own parts have"
    assert (by_id["e20"][6], by_id["e21"][6], by_id["e24"][6]) == ("\U0001f600", "\\ud83d", " blank ")


def test_a_file_gives_each_line_the_same_verdict_values_and_reason(
    spark: SparkSession, lake: Settings, tmp_path: Path, messages: list[bytes], streamed: list[tuple[Any, ...]]
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\n".join(messages) + b"\n")
    report = load_events(spark, lake, CLICKS, path)
    fitting = [row for row in streamed if row[0] is None]
    assert (report.read, report.loaded, report.quarantined) == (len(LINES), len(fitting), len(LINES) - len(fitting))
    loaded = spark.read.format("delta").load(lake.table(CLICKS.table)).selectExpr("NULL AS _reason", *NAMES)
    assert sorted(verdicts(loaded, "event_id"), key=str) == sorted(fitting, key=str)
    quarantined = spark.read.format("delta").load(lake.table("quarantine")).orderBy("row").collect()
    assert [(row["row"], row["reason"]) for row in quarantined] == [
        (n, row[0]) for n, row in enumerate(streamed, start=1) if row[0]
    ]
    assert [row["content"].encode() for row in quarantined if "\ufffd" not in row["content"]] == [
        line.strip()
        for line, row in zip(messages, streamed, strict=True)
        if row[0] and "\ufffd" not in line.decode(errors="replace")
    ]


def test_the_archive_gives_each_message_the_same_verdict_and_values(
    spark: SparkSession, lake: Settings, messages: list[bytes], streamed: list[tuple[Any, ...]]
) -> None:
    create_archive(spark, lake, CLICKS)
    now_ms = int(time.time() * 1_000)
    more = [*messages, b"", b" \n", None]
    rows = [(CLICKS.topic, 0, offset, now_ms, None, value) for offset, value in enumerate(more)]
    append_messages(spark, lake, CLICKS, rows)
    fitting = [row for row in streamed if row[0] is None]
    assert ingest_archive(spark, lake, CLICKS).added == len(fitting)
    ingested = spark.read.format("delta").load(lake.table(CLICKS.table)).selectExpr("NULL AS _reason", *NAMES)
    assert sorted(verdicts(ingested, "event_id"), key=str) == sorted(fitting, key=str)


def test_a_message_of_nothing_has_its_true_reason(spark: SparkSession, settings: Settings) -> None:
    rows = [(0, None), (1, b""), (2, b" \n\t"), (3, b'"x"'), (4, b"\xef\xbb\xbf" + line(1).encode())]
    frame = spark.createDataFrame(rows, "offset BIGINT, value BINARY").selectExpr("*", "0L AS arrival_ms")
    assert [row[0] for row in verdicts(judged(settings, frame, CLICKS, {"_offset": "offset"}), "_offset")] == [
        "the message has no value: a tombstone",
        "the message is empty",
        "the message is empty",
        "the message is JSON, but not an object",
        "the message begins with a byte order mark",
    ]


def test_two_documents_in_one_message_are_no_event(spark: SparkSession, settings: Settings) -> None:
    both = "\n".join(json.dumps({"event_id": name, "user_id": 1}) for name in "ab").encode()
    frame = spark.createDataFrame([(0, both)], "offset BIGINT, value BINARY").selectExpr("*", "0L AS arrival_ms")
    assert verdicts(judged(settings, frame, CLICKS, {"_offset": "offset"}), "_offset") == [
        ("there is text behind the JSON object of the message",)
    ]


#: Texts at the edges of the contract, by the column that has them.
TEXTS: dict[str, tuple[str, ...]] = {
    "offset": (
        "1.5", "1.0", "1.", ".0", " 7 ", "+7", "-0", "1e3", "007", "", " ", "9223372036854775807", "9223372036854775808", "-9223372036854775808.000",
        "1_000", "0x1F", "٣", "true", "NaN",
    ),
    "amount": (
        "1.2345665", "1.2345675", "-1.2345665", "1.23456650000000000001", "1.2345664999999999996", "0.0000005", "0.0000015", "1e3", "1E-7", "5e-7", ".5",
        "5.", "+2", " 2 ", "999999999999.999999", "999999999999.9999995", "1000000000000", "1e12", "1e30", "1e-300", "1e9999", "1,5", "1_0", "NaN",
        "Infinity", "0x1", "", "-", "1.0d", "12345678901234567890.5", "123456789012345678901",
    ),
    "event_timestamp": (
        "2026-01-02T03:04:05.0019Z", "2026-01-02T03:04:05.9999999Z", "2026-01-02t03:04:05z", "2026-01-02 03:04:05.123456789+05:30", "1970-01-02T00:00:00Z",
        "1970-01-01T23:59:59.9999Z", "2199-12-31T23:59:59.9999Z", "2200-01-01T00:00:00Z", "2200-01-01T00:30:00+01:00", "2026-01-02T03:04:05",
        "2026-02-30T03:04:05Z", "2026-01-02T24:00:00Z", "2026-01-02T03:04:60Z", "2026-01-02T03:04:05+18:00", "2026-01-02T03:04:05+18:01",
        "2026-01-02T03:04:05-00:75", "2026-01-02T03:04Z", " 2026-01-02T03:04:05Z", "20260102T030405Z", "1767323045", "0001-01-01T00:00:00Z",
        "2026-01-02T03:04:05.1234567890Z",
    ),
    "properties": ("{}", "[]", " [ ] ", "[1]", "x", '{"a":"b"}', '{"a":1,"b":null,"c":true}', '{"a":{"x":[1]}}', "null", '"a"', "", '{"a"'),
    "user_id": ("", " ", "5", "5.00", "5.01"),
    "kind": ("", " ", "VIEW", " VIEW "),
}  # fmt: skip


def test_a_test_of_a_declaration_reads_each_value_as_the_platform_does(spark: SparkSession) -> None:
    fitting = {"event_id": "e", "user_id": "5", "kind": "VIEW", "event_timestamp": "2026-01-02T03:04:05.678Z"}
    events = [(column, fitting | {column: text}) for column, texts in TEXTS.items() for text in texts]
    raw = spark.createDataFrame(
        [(n, *(event.get(name) for name in NAMES), None) for n, (_, event) in enumerate(events)],
        f"n INT, {', '.join(f'`{name}` STRING' for name in NAMES)}, {MISFIT} STRING",
    )
    for projection in row_projections(CLICKS, ["n"], f"{2**62}", DAY_MS):
        raw = raw.selectExpr(*projection)
    features = (
        total("amount", of="amount"), last_k("offset", of="offset", k=1), count("with_offset", where="offset IS NOT NULL"),
        count("with_amount", where="amount IS NOT NULL"), count("with_properties", where="properties IS NOT NULL"),
        count("with_a", where="properties['a'] IS NOT NULL"), count("a_is_b", where="properties['a'] = 'b'"), count("views", where="kind = 'VIEW'"),
    )  # fmt: skip
    group = FeatureGroup("clickers", "user_id", CLICKS, features)
    unlike = []
    for row, (column, event) in zip(raw.orderBy("n").drop("event_timestamp").collect(), events, strict=True):
        values = None
        if row["_reason"] is None:
            properties = row["properties"] or {}
            values = {
                "amount": float(row["amount"] or 0), "offset": [row["offset"]] if row["offset"] is not None else None,
                "with_offset": int(row["offset"] is not None), "with_amount": int(row["amount"] is not None),
                "with_properties": int(row["properties"] is not None), "with_a": int(properties.get("a") is not None),
                "a_is_b": int(properties.get("a") == "b"), "views": int(row["kind"] == "VIEW"),
            }  # fmt: skip
        try:
            at_ms = CLICKS.latest_ms if row["_reason"] else row["ts_ms"] + 1
            computed = features_at(group, [event], 5, rfc3339(at_ms))
            # The event lies at exactly this millisecond.
            if row["_reason"] is None and features_at(group, [event], 5, rfc3339(row["ts_ms"]))["views"]:
                unlike.append((column, event[column], "earlier than on the platform"))
        except BraidError as error:
            computed = None
            if row["_reason"] and row["_reason"] not in str(error) and "is missing" not in row["_reason"]:
                unlike.append((column, row["_reason"], str(error)))
        if computed != values:
            unlike.append((column, event[column], row["_reason"] or values, computed))
    assert not unlike, "\n".join(map(str, unlike))


@pytest.mark.parametrize(("item", "counted"), [("i", 1), ("i" * 256, 1), ("i" * 257, 0), ("", 0)])
def test_a_test_of_a_declaration_counts_no_event_of_an_empty_or_too_long_entity(item: str, counted: int) -> None:
    group = FeatureGroup("items", "item", CLICKS, (count("clicks"),))
    event = {"event_id": "e", "user_id": 5, "kind": "VIEW", "event_timestamp": "2026-01-02T03:04:05Z", "item": item}
    assert features_at(group, [event], item, "2026-01-03T00:00:00Z") == {"clicks": counted}
