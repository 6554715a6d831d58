"""Anyone's file becomes rows of the contract; a file or a mapping that cannot be used is refused in a sentence."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch.files import open_events
from infra.errors import InputError
from tests.declarations import user_events

SHOP = "CustomerID,InvoiceDate,Total,Basket\n17850.0,12/1/2010 8:26,15.3,a\n17850.0,12/1/2010 8:26,15.3,a\n5,yesterday,1e2,b\n"
SHOP_MAPPING = {
    "user_id": "CustomerID",
    "event_timestamp": "InvoiceDate",
    "amount": "Total",
    "session_id": "Basket",
    "event_type": "'PURCHASE'",
}


def rows(path: Path, mapping: dict[str, str] | None = None, time_zone: str = "UTC") -> list[dict[str, Any]]:
    with open_events(path, user_events, mapping, time_zone) as file:
        return [row for batch in file.batches() for row in batch.to_pylist()]


def test_columns_are_mapped_and_ids_derived_so_that_equal_rows_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(SHOP)
    found = rows(path, SHOP_MAPPING)
    assert [row["user_id"] for row in found] == ["5", "17850.0", "17850.0"]  # a row without a readable time comes first
    assert found[0]["event_timestamp"] == "yesterday"
    assert found[1]["event_timestamp"].startswith("2010-12-01T08:26:00.000")
    assert {row["event_type"] for row in found} == {"PURCHASE"}
    assert len({row["event_id"] for row in found}) == 3
    assert rows(path, SHOP_MAPPING) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05.678+02:00", "2026-01-02T03:04:05.678+02:00"),
        ("2026-01-02 03:04:05", "2026-01-02T02:04:05.000000Z"),  # naive: Berlin's clock
        ("1767323045", "2026-01-02T03:04:05.000000Z"),
        ("1767323045678", "2026-01-02T03:04:05.678000Z"),
        ("02.01.2026 03:04", "2026-01-02T02:04:00.000000Z"),
        ("soon", "soon"),
    ],
)
def test_times_of_many_spellings_become_rfc3339(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(f"event_id,user_id,session_id,event_type,event_timestamp\n1,1,s,VIEW,{text}\n")
    assert rows(path, time_zone="Europe/Berlin")[0]["event_timestamp"] == expected


def test_json_lines_keep_what_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    lines = '{"event_id":"1","user_id":1,"session_id":"s","event_type":"V","amount":12.50,"event_timestamp":"2026-01-01T00:00:00Z",'
    lines += '"properties":{"a":"b"}}\nnot json\n[1]\n\n'
    path.write_bytes(gzip.compress(lines.encode()))
    found = rows(path)
    assert [row["_line"] for row in found] == ["not json", "[1]", None]
    assert dict(found[2]["properties"]) == {"a": "b"}


CONTRACT = "event_id,user_id,session_id,event_type,event_timestamp"


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_csv_may_have_any_delimiter_short_rows_and_quoted_line_breaks(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "events.csv"
    text = f'{CONTRACT}\n1,1,"a\nb",VIEW,2026-01-01T00:00:00Z\n2,2\n'.replace(",", delimiter)
    path.write_bytes(("\ufeff" + text).encode())
    short, whole = rows(path)
    assert (whole["event_id"], whole["session_id"]) == ("1", "a\nb")
    assert (short["user_id"], short["session_id"]) == ("2", None)


def test_a_file_may_have_columns_of_the_names_that_are_added(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"_row,_line,{CONTRACT}\n9,x,1,1,s,VIEW,2026-01-01T00:00:00Z\n")
    line = '{"_line":"x","_row":9,"event_id":"1","user_id":1,"session_id":"s","event_type":"V","event_timestamp":"2026-01-01T00:00:00Z"}'
    (tmp_path / "events.jsonl").write_text(line + "\n")
    for name in ("events.csv", "events.jsonl"):
        (row,) = rows(tmp_path / name)
        assert (row["_row"], row["_line"], row["user_id"]) == (1, None, "1")


def test_of_json_keys_that_differ_by_case_the_contract_has_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"USER_ID":2,"User_Id":3,"user_id":1,"session_id":"s","event_type":"V","event_timestamp":"2026-01-01T00:00:00Z"}\n'
    )
    assert rows(path)[0]["user_id"] == "1"


def test_parquet_types_become_text(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    duckdb.sql(
        "SELECT 'e' AS event_id, 7::BIGINT AS user_id, 's' AS session_id, 'V' AS event_type, 1.50::DECIMAL(9,2) AS amount, "
        "TIMESTAMP '2026-01-01 00:00:00.001' AS event_timestamp"
    ).write_parquet(str(path))
    assert rows(path)[0]["event_timestamp"] == "2026-01-01T00:00:00.001000Z"
    assert rows(path)[0]["amount"] == "1.50"


def test_a_file_without_rows_is_no_error(tmp_path: Path) -> None:
    for name, content in (("a.csv", ""), ("b.csv", "event_id,user_id,session_id,event_type,event_timestamp\n"), ("c.jsonl", "")):
        (tmp_path / name).write_text(content)
        assert rows(tmp_path / name) == []


@pytest.mark.parametrize(
    ("name", "content", "mapping", "says"),
    [
        ("missing.csv", None, {}, "does not exist"),
        ("shop.xlsx", "x", {}, "of no known kind"),
        ("broken.parquet", "no parquet", {}, "cannot be read"),
        ("latin.csv", SHOP.replace("b\n", "caf\udce9\n"), SHOP_MAPPING, "is not text in UTF-8"),
        ("latin.jsonl", '{"user_id": "caf\udce9"}\n', {}, "is not text in UTF-8"),
        ("shop.csv", SHOP, {}, "has no column for user_id, session_id, event_type, event_timestamp"),
        ("shop.csv", SHOP, {**SHOP_MAPPING, "user_id": "Customer"}, "has no column 'Customer'"),
        ("shop.csv", SHOP, {**SHOP_MAPPING, "colour": "Total"}, "is no column of user_events"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str | None, mapping: dict[str, str], says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=says):
        rows(tmp_path / name, mapping)


def test_an_unknown_time_zone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text(SHOP)
    with pytest.raises(InputError, match="time zone"):
        rows(tmp_path / "shop.csv", SHOP_MAPPING, "Mars/Olympus")
