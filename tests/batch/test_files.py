"""Anyone's file becomes rows of the contract; a file or a mapping that cannot be used is refused in a sentence."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.csv_rows import joined_decimals
from batch.files import EventFile, ReadOptions, open_events
from infra.errors import InputError
from speed.replay import messages_of
from tests.declarations import user_events

CASES = Path(__file__).parents[1] / "cases"
SOURCE = replace(user_events, name="orders", topic="orders", table="orders")
CONTRACT = "event_id,user_id,session_id,event_type,event_timestamp"
GOOD = "1,1,s,VIEW,2026-01-01T00:00:00Z"
SHOP = "CustomerID,InvoiceDate,Total,Basket\n17850.0,12/1/2010 8:26,15.3,a\n17850.0,12/1/2010 8:26,15.3,a\n5,yesterday,1e2,b\n"
SHOP_MAPPING = {
    "user_id": "CustomerID",
    "event_timestamp": "InvoiceDate",
    "amount": "Total",
    "session_id": "Basket",
    "event_type": "'PURCHASE'",
}
EXPORT_MAPPING = {
    "user_id": "distinct_id",
    "session_id": "session",
    "event_type": "name",
    "event_timestamp": "time",
    "amount": "revenue",
}


def rows(path: Path, mapping: dict[str, str] | None = None, **options: Any) -> list[dict[str, Any]]:
    """The rows in the order of the file."""
    with open_events(path, SOURCE, mapping, ReadOptions(**options)) as file:
        result = [row for batch in file.batches() for row in batch.to_pylist()]
    return sorted(result, key=lambda row: row["_row"])


def readings(file: EventFile) -> dict[str, Any]:
    return {column.column: column for column in file.readings}


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def test_columns_are_mapped_and_ids_derived_so_that_equal_rows_stay_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.csv", SHOP)
    result = rows(path, SHOP_MAPPING, day_first=False)
    assert [row["user_id"] for row in result] == ["17850.0", "17850.0", "5"]
    assert result[2]["event_timestamp"] == "yesterday"
    assert result[0]["event_timestamp"] == "2010-12-01T08:26:00.000000Z"
    assert {row["event_type"] for row in result} == {"PURCHASE"}
    assert len({row["event_id"] for row in result}) == 3
    assert rows(path, SHOP_MAPPING, day_first=False) == result


def test_a_derived_id_depends_on_the_contract_alone(tmp_path: Path) -> None:
    once = rows(CASES / "A13-sparse-keys/export_day1.jsonl", EXPORT_MAPPING)
    again = rows(CASES / "A13-sparse-keys/export_day1_2.jsonl", EXPORT_MAPPING)
    assert [row["event_id"] for row in once] == [row["event_id"] for row in again[:2]]
    folder = tmp_path / "day=2026-11-01"
    folder.mkdir()
    for path, header, more in ((tmp_path / "a.csv", "", ""), (folder / "b.csv", "coupon,", "AUTUMN,")):
        write(path, f"{header}user_id,session_id,event_type,event_timestamp\n{more}1,s,V,2026-01-01T00:00:00Z\n")
    assert rows(tmp_path / "a.csv")[0]["event_id"] == rows(folder / "b.csv")[0]["event_id"]


def test_a_column_without_values_does_not_change_a_derived_id(tmp_path: Path) -> None:
    first = '{"user_id":1,"session_id":"s","event_type":"V","event_timestamp":"2026-01-01T00:00:00Z"}\n'
    later = first.replace('"V"', '"PURCHASE","amount":5,"item_id":"x"')
    # No object of the first day has an amount or an item.
    once, again = (rows(write(tmp_path / name, text)) for name, text in (("day1.jsonl", first), ("day1_2.jsonl", first + later)))
    assert [row["event_id"] for row in once] == [row["event_id"] for row in again[:1]]
    header, good = CONTRACT.removeprefix("event_id,"), GOOD.removeprefix("1,")
    files = {"a.csv": f"{header}\n{good}\n", "b.csv": f"{header},item_id\n{good},\n"}
    a, b = (rows(write(tmp_path / name, text))[0] for name, text in files.items())
    assert a["event_id"] == b["event_id"]


def test_a_column_may_differ_by_case_where_no_other_one_does(tmp_path: Path) -> None:
    path = write(tmp_path / "snowflake.csv", f"{CONTRACT.upper()},Amount,AMOUNT,Item_Id\n{GOOD},5,6,x\n")
    (row,) = rows(path)
    assert (row["user_id"], row["amount"], row["item_id"]) == ("1", None, "x")
    (row,) = rows(path, {"amount": "AMOUNT", "session_id": "Item_Id"})
    assert (row["amount"], row["session_id"], row["item_id"]) == ("6", "x", None), "a column that is mapped is no other one"
    table = pa.table({name.upper(): [value] for name, value in zip(CONTRACT.split(","), GOOD.split(","), strict=True)})
    pq.write_table(table, tmp_path / "oracle.parquet")
    assert rows(tmp_path / "oracle.parquet")[0]["event_id"] == "1"


def test_brackets_in_a_name_and_a_folder_like_a_column_are_nothing_special(tmp_path: Path) -> None:
    folder = tmp_path / "item_id=wrong"
    folder.mkdir()
    table = pa.table(
        {"event_id": ["1"], "user_id": [1], "session_id": ["s"], "event_type": ["V"], "event_timestamp": ["2026-01-01T00:00:00Z"]}
    )
    pq.write_table(table, folder / "day[1].parquet")
    pq.write_table(table.set_column(0, "event_id", pa.array(["2"])), folder / "day1.parquet")
    (row,) = rows(folder / "day[1].parquet")
    assert (row["event_id"], row["item_id"]) == ("1", None)


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_csv_has_the_delimiter_of_its_header_and_quoted_line_breaks(tmp_path: Path, delimiter: str) -> None:
    text = f'\ufeff{CONTRACT}\n1,1,"a\nb",VIEW,2026-01-01T00:00:00Z\r\n\n2,2,"say ""x""",VIEW,2026-01-01T00:00:00Z\n'
    result = rows(write(tmp_path / "events.csv", text.replace(",", delimiter)))
    assert [row["session_id"] for row in result] == ["a\nb", 'say "x"']
    assert [row["_row"] for row in result] == [1, 2]


def test_a_row_with_a_field_too_many_or_too_few_is_kept_whole_with_the_reason(tmp_path: Path) -> None:
    result = rows(CASES / "A07-decimal-comma/sales.csv")
    assert [row["amount"] for row in result] == ["7", None, "3,25"]
    assert result[1]["_line"] == "c2,701,s,PURCHASE,2026-11-01T11:20:00Z,x,12,50"
    assert result[1]["_misfit"] == "the row has 8 fields, the header has 7"
    assert [row["amount"] for row in rows(CASES / "A07-decimal-comma/sales.csv", decimal_comma=True)] == ["7", "12.50", "3.25"]
    (row,) = rows(write(tmp_path / "short.csv", f"{CONTRACT}\n2,2\n"))
    assert (row["_line"], row["_misfit"]) == ("2,2", "the row has 2 fields, the header has 5")


@pytest.mark.parametrize(
    ("record", "decimals", "fields"),
    [
        (["a", "1", "5", "b"], [1], ["a", "1,5", "b"]),
        (["a", "1.234", "50", "2"], [1], ["a", "1.234,50", "2"]),
        (["a", "1", "5", "2", "75"], [1, 2], ["a", "1,5", "2,75"]),
        (["a", "1", "2", "75"], [1, 2], None),  # 1,2 and 75, or 1 and 2,75
        (["a", "b", "1", "5"], [1], None),  # the comma too many is in a text
        (["a", "1", "-5", "b"], [1], None),
        (["a", "1", "5", "b", "c"], [1], None),
    ],
)
def test_a_decimal_that_the_delimiter_cuts_is_joined_where_there_is_one_way(
    record: list[str], decimals: list[int], fields: list[str] | None
) -> None:
    assert joined_decimals(record, 3, decimals) == fields


def test_a_decimal_comma_may_have_points_between_thousands_and_no_decimal_point(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [[*CONTRACT.split(","), "amount"], *([*GOOD.split(","), sum_] for sum_ in ("1.234,50", "-7", "12.50", "1.234"))]
        )
    result = rows(path, decimal_comma=True)
    assert [row["amount"] for row in result] == ["1234.50", "-7", "12.50", "1234"]
    assert [row["_misfit"] for row in result] == [None, None, "amount has no decimal comma: 12.50", None]


def test_a_decimal_comma_is_that_of_integers_too_and_blanks_may_separate_thousands(tmp_path: Path) -> None:
    header, good = CONTRACT.replace(",", ";"), GOOD.replace(",", ";")
    lines = [
        good.replace("1;1", f"1;{id_}", 1) + f";{sum_}"
        for id_, sum_ in (("1.000", "1 234,50"), ("12,0", "1\u202f234"), ("5.0", "1"))
    ]
    result = rows(write(tmp_path / "sap.csv", "\n".join([f"{header};amount", *lines, ""])), decimal_comma=True)
    assert [(row["user_id"], row["amount"]) for row in result] == [("1000", "1234.50"), ("12.0", "1234"), ("5.0", "1")]
    assert [row["_misfit"] for row in result] == [None, None, "user_id has no decimal comma: 5.0"]


def test_a_point_beside_decimal_commas_may_stand_between_thousands(tmp_path: Path) -> None:
    """Read as it stands, it would make a thousandth of the value."""
    sums = ("1.234", "1.234,50", "12.50", "7", "1.234.567")
    path = write(tmp_path / "sums.csv", f"{CONTRACT},amount\n" + "".join(f'{GOOD},"{sum_}"\n' for sum_ in sums))
    unclear = "amount may have a point between thousands, because other values have a decimal comma: "
    assert [row["_misfit"] for row in rows(path)] == [f"{unclear}1.234", None, None, None, f"{unclear}1.234.567"]
    with open_events(path, SOURCE) as file:
        assert "such as '1.234,50': choose --decimal-comma" in readings(file)["amount"].why
    path = write(tmp_path / "thousands.csv", f"{CONTRACT},amount\n" + "".join(f'{GOOD},"{sum_}"\n' for sum_ in ("1.234", "1,234")))
    assert [row["_misfit"] for row in rows(path)] == [None, None], "a comma between thousands says nothing of a point"


def test_a_quote_means_the_same_in_every_row(tmp_path: Path) -> None:
    """DuckDB's reader decides the dialect on its first 20,480 rows."""
    many = "".join(f"e{i},1,s,VIEW,2026-01-01T00:00:00Z\n" for i in range(30_000))
    path = write(tmp_path / "events.csv", f'{CONTRACT}\n{many}last,1,"a,""b""",VIEW,2026-01-01T00:00:00Z\n')
    result = rows(path)
    assert (len(result), result[-1]["session_id"]) == (30_001, 'a,"b"')


@pytest.mark.parametrize("field", ['"a"b', '"say \\"x\\""'])
def test_text_behind_a_closing_quote_is_the_reason_of_its_row_alone(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "events.csv", f"{CONTRACT}\n1,1,{field},VIEW,2026-01-01T00:00:00Z\n{GOOD}\n")
    first, second = rows(path)
    assert "text behind a closing quote: a quote in a quoted field is doubled, not escaped by a backslash" in first["_misfit"]
    assert second["event_id"] == "1"


def test_blanks_around_a_field_are_none_of_its_value(tmp_path: Path) -> None:
    path = write(
        tmp_path / "events.csv",
        f'event_id, user_id ,session_id,event_type,event_timestamp\n 1, 1,"s", VIEW , 2026-01-01T00:00:00Z\n2,2, "a, b",V,{GOOD[-20:]}\n',
    )
    first, second = rows(path)
    assert (first["event_type"], first["event_timestamp"]) == ("VIEW", "2026-01-01T00:00:00Z")
    assert second["session_id"] == "a, b"


def test_texts_that_stand_for_no_value_are_none_and_are_counted(tmp_path: Path) -> None:
    with open_events(CASES / "A11-null-as-text/ssms.csv", SOURCE) as file:
        result = sorted((row for batch in file.batches() for row in batch.to_pylist()), key=lambda row: row["_row"])
        assert (readings(file)["amount"].nulls, readings(file)["item_id"].nulls) == (3, 1)
    assert [row["amount"] for row in result] == [None, None, None, "9.99"]
    assert [row["item_id"] for row in result] == ["sku-1", "sku-1", "sku-1", None]
    path = write(tmp_path / "events.csv", f"{CONTRACT},item_id\n{GOOD},NULL\n{GOOD},-\n{GOOD},\n")
    assert [row["item_id"] for row in rows(path, nulls=("-",))] == ["NULL", None, None]
    # Of SQL Developer, HeidiSQL, DBeaver, DataGrip, pandas, Excel, MySQL and C.
    texts = ("(null)", "(NULL)", "[NULL]", "<null>", "Null", "<NA>", "NaT", "N/A", "n/a", "#N/A", r"\N", "nan", "-nan")
    path = write(
        tmp_path / "exports.csv", f"{CONTRACT},item_id\n" + "".join(f"{GOOD},{text}\n" for text in (*texts, "NA", "nullable"))
    )
    assert [row["item_id"] for row in rows(path)] == [*[None] * len(texts), "NA", "nullable"]


def test_a_header_with_two_delimiters_is_decided_by_the_columns_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", f"{CONTRACT.replace(',', ';')};a|b\n{GOOD.replace(',', ';')};x\n")
    assert rows(path)[0]["event_type"] == "VIEW"
    unclear = write(tmp_path / "unclear.csv", "a,b;c\n1,2;3\n")
    with pytest.raises(InputError, match=r"can be cut at ',' and ';'.*--delimiter"):
        rows(unclear)
    semicolons = write(tmp_path / "excel.csv", f"sep=;\n{CONTRACT.replace(',', ';')}\n{GOOD.replace(',', ';')}\n")
    assert rows(semicolons)[0]["event_type"] == "VIEW"


# JSON


def test_lines_of_json_stay_the_bytes_that_they_are(tmp_path: Path) -> None:
    good = '{"event_id":"1","user_id":1,"session_id":"s","event_type":"V","amount":12.50,"event_timestamp":"2026-01-01T00:00:00Z"}'
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(f"{good}\r\nnot json\n[1]\n\n".encode()))
    assert [row["_message"] for row in rows(path)] == [good.encode(), b"not json", b"[1]"]


def test_a_replay_sends_the_bytes_of_a_line(tmp_path: Path) -> None:
    line = b'{"event_id":"1", "user_id":7,"session_id":"s","event_type":"V","event_timestamp":"2026-01-01T00:00:00Z","amount":1.50}'
    (tmp_path / "events.jsonl").write_bytes(line + b"\nnot json\n")
    with open_events(tmp_path / "events.jsonl", SOURCE) as file:
        sent = [message for batch in file.batches() for message in messages_of(SOURCE, batch)]
    assert [(message.time_ms, message.key, message.value) for message in sent] == [
        (None, None, b"not json"),
        (1_767_225_600_000, b"7", line),
    ]


@pytest.mark.parametrize(
    ("name", "ids"), [("export", ["j1", "j2", "j3"]), ("one_line", ["k1", "k2", "k3"]), ("pretty", ["l0", "l1", "l2"])]
)
def test_an_array_and_a_pretty_print_give_all_their_events(name: str, ids: list[str]) -> None:
    assert [json.loads(row["_message"])["event_id"] for row in rows(CASES / f"A12-json-array/{name}.json")] == ids


def test_mixed_line_ends_and_empty_keys_are_fine() -> None:
    assert len(rows(CASES / "A15-mixed-line-ends/two_hosts.jsonl")) == 3
    assert len(rows(CASES / "A14-json-odds/empty_key.jsonl")) == 2


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("firehose.json", ""),
        ("blanks.json", " "),
        ("mac.json", "\r"),
        ("mac.jsonl", "\r"),
        ("joined.jsonl", "\n\ufeff"),
        ("dos.jsonl", "\r\n\r\n"),
    ],
)
def test_objects_without_line_ends_and_joined_files_give_all_their_events(tmp_path: Path, name: str, between: str) -> None:
    events = [f'{{"event_id":"{i}","user_id":{i},"item_id":"}}{{"}}' for i in range(3)]
    assert [row["_message"].decode() for row in rows(write(tmp_path / name, "\ufeff" + between.join(events)))] == events


def test_two_objects_on_one_of_several_lines_are_one_message_as_in_the_stream(tmp_path: Path) -> None:
    both = '{"event_id":"1"}{"event_id":"2"}'
    for name, text in (("a.jsonl", both), ("b.json", f'{both}\n{{"user_id":3,"event_id":"3"}}'), ("c.json", '{"event_id":"1"} x')):
        assert rows(write(tmp_path / name, f"{text}\n"))[0]["_message"] == text.splitlines()[0].encode()


def test_documents_may_be_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    events = [{"event_id": str(i), "user_id": i, "event_type": "ü" * 300_000, "n": 1.5} for i in range(9)]
    path = write(tmp_path / "large.json", json.dumps(events, indent=1, ensure_ascii=False))
    assert [json.loads(row["_message"]) for row in rows(path)] == events


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[\n{"event_id":"1"},\n{"event_id":"2"}\n', "is an array of JSON that breaks off in line 4"),
        ('[\n{"event_id":"1"},\n{"event_id":}\n]', "is not JSON in line 3"),
        ('[\n{"event_id":"caf\udce9"}\n]', "is not text in UTF-8"),
    ],
)
def test_an_array_that_is_not_whole_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rows(write(tmp_path / "events.json", text))


def test_mapped_json_is_read_like_any_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "export.jsonl",
        '{"distinct_id":7,"session":"s","name":"a\\u00e4","time":1767323045678,"revenue":1.50,"more":{"x":1}}\n'
        '{"distinct_id":null,"session":["s"],"name":true,"time":"1767323045.5","revenue":null}\nbroken\n',
    )
    mapping = {**EXPORT_MAPPING, "properties": "more"}
    with pytest.raises(InputError, match=r"several units: milliseconds by '1767323045678' in line 1 and seconds by .* in line 2"):
        rows(path, mapping)
    result = rows(path, mapping, time_format="epoch-ms")
    assert [result[0][name] for name in ("user_id", "event_type", "amount", "event_timestamp", "properties")] == [
        "7", "aä", "1.50", "2026-01-02T03:04:05.678000Z", '{"x":1}',
    ]  # fmt: skip
    assert [result[1][name] for name in ("user_id", "session_id", "event_type", "amount")] == [None, '["s"]', "true", None]
    assert (result[2]["_line"], result[2]["_misfit"]) == ("broken", "the message is not one JSON object of well-formed text")


def test_of_json_keys_that_differ_by_case_the_contract_has_its_own(tmp_path: Path) -> None:
    line = '{"USER_ID":2,"User_Id":3,"user_id":1,"session_id":"s","event_type":"V","event_timestamp":"2026-01-01T00:00:00Z"}\n'
    assert rows(write(tmp_path / "events.jsonl", line))[0]["user_id"] == "1"


# Parquet


def test_parquet_types_become_text(tmp_path: Path) -> None:
    instant = 1_793_532_600_123_456_789
    table = pa.table({
        "event_id": pa.array([b"b1", b"\xff"], pa.binary()),
        "user_id": pa.array([7.0, float("nan")]),
        "session_id": ["s", " s"],
        "event_type": ["V", "V"],
        "amount": pa.array([1.5, float("nan")]),
        "event_timestamp": pa.array([instant, None], pa.timestamp("ns", "UTC")),
        "properties": pa.array([[("a", "b")], None], pa.map_(pa.string(), pa.string())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "events.parquet")
    first, second = rows(tmp_path / "events.parquet", time_zone="Europe/Berlin")
    assert (first["event_id"], first["user_id"], first["amount"]) == ("b1", "7.0", "1.5")
    assert first["event_timestamp"] == "2026-11-01T11:30:00.123456Z", "an instant, whatever the zone"
    assert json.loads(first["properties"]) == {"a": "b"}
    assert (second["_misfit"], second["user_id"], second["session_id"]) == ("event_id is not text in UTF-8", None, " s")
    assert rows(CASES / "A09-parquet-binary/clickhouse.parquet")[0]["item_id"] == "Käse"


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS"])
def test_a_naive_time_of_parquet_is_the_zones(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.parquet"
    duckdb.sql(
        "SELECT 'e' AS event_id, 7::BIGINT AS user_id, 's' AS session_id, 'V' AS event_type, 1.50::DECIMAL(9,2) AS amount, "
        f"'2026-01-01 00:00:00.001'::{kind} AS event_timestamp"
    ).write_parquet(str(path))
    assert rows(path)[0]["event_timestamp"] == "2026-01-01T00:00:00.001000Z"
    assert rows(path, time_zone="Europe/Berlin")[0]["event_timestamp"] == "2025-12-31T23:00:00.001000Z"
    assert rows(path)[0]["amount"] == rows(path, decimal_comma=True)[0]["amount"] == "1.50"


def test_binary_texts_within_maps_lists_and_structs_are_text(tmp_path: Path) -> None:
    texts, two = "Käse".encode(), range(2)
    types = {
        "map": (pa.map_(pa.binary(), pa.binary()), [[(b"k", texts)], None], {"k": "Käse"}),
        "struct": (
            pa.struct([("k", pa.list_(pa.binary())), ("n", pa.int64())]),
            [{"k": [texts, None], "n": 1}, None],
            {"k": ["Käse", None], "n": 1},
        ),
        "broken": (pa.map_(pa.binary(), pa.binary()), [[(b"k", b"\xff")], None], None),
    }
    for name, (kind, values, expected) in types.items():
        table = pa.table({
            "event_id": [str(i) for i in two], "user_id": [1 for _ in two], "session_id": ["s" for _ in two], "event_type": ["V" for _ in two],
            "event_timestamp": ["2026-01-01T00:00:00Z" for _ in two], "properties": pa.array(values, kind),
        })  # fmt: skip
        pq.write_table(table, tmp_path / f"{name}.parquet")
        first, second = rows(tmp_path / f"{name}.parquet")
        assert second["properties"] is second["_misfit"] is None
        assert first["_misfit"] == (None if expected else "properties is not text in UTF-8")
        assert expected is None or json.loads(first["properties"]) == expected


def test_digits_that_parquet_may_have_rounded_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    good = {"event_id": "e", "session_id": "s", "event_type": "V", "event_timestamp": "2026-01-01T00:00:00Z"}

    def write_ids(*ids: float, kind: pa.DataType) -> Path:
        pq.write_table(
            pa.table({**{name: [value] * len(ids) for name, value in good.items()}, "user_id": pa.array(ids, kind)}), path
        )
        return path

    reason = "user_id is a floating-point number whose last digits may be rounded: "
    result = rows(write_ids(2.0**53 - 1, 2.0**53, -1e16, kind=pa.float64()))
    assert [row["_misfit"] for row in result] == [None, f"{reason}9007199254740992.0", f"{reason}-1e+16"]
    assert [row["_misfit"] for row in rows(write_ids(2.0**24 - 1, 2.0**24, kind=pa.float32()))] == [None, f"{reason}16777216.0"]
    table = pa.table({**{name: [value] for name, value in good.items()}, "user_id": [1]})
    pq.write_table(table.append_column("amount", pa.array([Decimal("123456789012.123456")], pa.decimal256(76, 38))), path)
    with pytest.raises(InputError, match=r"decimals of the column 'amount' .* have more than 38 digits"):
        rows(path)


def test_columns_of_parquet_may_differ_by_case_alone_but_not_be_equal(tmp_path: Path) -> None:
    """DuckDB gives the second one another name, and the amount would be none."""
    table = pa.table({name: [value] for name, value in zip(CONTRACT.split(","), GOOD.split(","), strict=True)})
    table = table.append_column("Amount", pa.array([1])).append_column("amount", pa.array([2]))
    pq.write_table(table, tmp_path / "events.parquet")
    assert rows(tmp_path / "events.parquet")[0]["amount"] == "2"
    assert rows(tmp_path / "events.parquet", {"amount": "Amount"})[0]["amount"] == "1"
    pq.write_table(table.append_column("amount", pa.array([3])), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="several columns 'amount'"):
        rows(tmp_path / "twice.parquet")


# Files that cannot be used


def test_a_file_may_have_columns_of_the_names_that_are_added(tmp_path: Path) -> None:
    (row,) = rows(write(tmp_path / "events.csv", f"_row,_line,t,{CONTRACT}\n9,x,y,{GOOD}\n"))
    assert (row["_row"], row["_line"], row["user_id"]) == (1, None, "1")


def test_a_file_without_rows_is_no_error(tmp_path: Path) -> None:
    for name, content in (("a.csv", ""), ("b.csv", CONTRACT + "\n"), ("c.jsonl", ""), ("d.json", "[]")):
        assert rows(write(tmp_path / name, content)) == []


@pytest.mark.parametrize(
    ("name", "content", "mapping", "says"),
    [
        ("missing.csv", None, {}, "does not exist"),
        ("shop.xlsx", "x", {}, "is unknown"),
        ("broken.parquet", "no parquet", {}, "broken.parquet cannot be read to its end: (?!.*file.parquet)"),
        ("empty.parquet", "", {}, "empty.parquet cannot be read to its end: (?!.*file.parquet)"),
        ("broken.csv.gz", "no gzip", {}, "cannot be read"),
        ("latin.csv", SHOP.replace("b\n", "caf\udce9\n"), SHOP_MAPPING, "is not text in UTF-8"),
        ("utf16.csv", "a\0,\0b\0", {}, "is not text in UTF-8"),
        ("quote.csv", f'{CONTRACT}\n{GOOD}\n1,1,"s,VIEW\n{GOOD}\n', {}, "a quote that opens in line 3 is not closed"),
        ("twice.csv", f"{CONTRACT},user_id\n{GOOD},2\n", {}, "several columns 'user_id'"),
        ("shop.csv", SHOP, {}, "has no column for user_id, session_id, event_type, event_timestamp"),
        ("export.jsonl", '{"distinct_id":1,"time":2}\n', {}, "has no column for user_id, .*the file has: distinct_id, time"),
        ("export.jsonl", '{"distinct_id":1,"time":2}\n', EXPORT_MAPPING, "has no column 'session'"),
        ("shop.csv", SHOP, {**SHOP_MAPPING, "user_id": "Customer"}, "has no column 'Customer'"),
        ("shop.csv", SHOP, {**SHOP_MAPPING, "colour": "Total"}, "is no column of orders"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str | None, mapping: dict[str, str], says: str
) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(InputError, match=says):
        rows(tmp_path / name, mapping)


@pytest.mark.parametrize("name", ["events.csv", "events.json", "events.jsonl", "events.csv.zst"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\ufeffa,b\n".encode("utf-16-le"), "in UTF-16.*iconv -f UTF-16 -t UTF-8"),
        ('{"a":1}\n'.encode("utf-16-le"), "in UTF-16.*iconv -f UTF-16LE"),
        ("a,b\n".encode("utf-16-be"), "in UTF-16.*iconv -f UTF-16BE"),
        (gzip.compress(b"a,b\n"), "is compressed by gzip.*ends in .gz"),
        (b"\x28\xb5\x2f\xfd\x24", "is compressed by Zstandard.*Unpack it"),
        (b"PK\3\4\x14\0\xff", "is a ZIP archive or a spreadsheet"),
    ],
    # Without names a case is called by its bytes, and those of gzip have the time in them: two workers would collect different tests.
    ids=["mark", "utf-16-le", "utf-16-be", "gzip", "zstandard", "zip"],
)
def test_the_first_bytes_of_what_is_no_text_say_the_cure(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        rows(tmp_path / name)


def test_a_folder_is_no_file_and_upper_case_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "events.parquet").mkdir()
    with pytest.raises(InputError, match=r"is a folder, not a file.*one by one"):
        rows(tmp_path / "events.parquet")
    (tmp_path / "EVENTS.CSV.GZ").write_bytes(gzip.compress(f"{CONTRACT}\n{GOOD}\n".encode()))
    assert rows(tmp_path / "EVENTS.CSV.GZ")[0]["user_id"] == "1"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "BST", "IST", "CST", "UTC+2", "", ".."])
def test_an_unknown_time_zone_and_an_abbreviation_of_several_are_refused(tmp_path: Path, zone: str) -> None:
    with pytest.raises(InputError, match=r"time zone .* is unknown. Use a name such as"):
        rows(write(tmp_path / "events.csv", f"{CONTRACT}\n{GOOD}\n"), time_zone=zone or " ")


def test_a_time_zone_has_a_name_of_the_tz_database(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", f"{CONTRACT}\n1,1,s,V,2026-07-01 12:00\n")
    zones = {"utc": "12", "GMT": "12", "Japan": "03", "CET": "10", "Etc/GMT+2": "14", "europe/berlin": "10"}
    assert {zone: rows(path, time_zone=zone)[0]["event_timestamp"][11:13] for zone in zones} == zones


def test_an_error_of_the_reader_of_the_rows_is_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", f"{CONTRACT}\n{GOOD}\n")
    with pytest.raises(OSError, match="full"), open_events(path, SOURCE):
        raise OSError("the disk is full")
