"""What a load says: what a wrong reading of a file would show in; and a check, which says it and loads nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from delta.tables import DeltaTable

from batch.files import ReadOptions, open_events
from batch.load import load_events, load_file
from braid import Labels, Model
from features.objective import Objective
from infra.settings import Settings
from speed.replay import messages_of, readable
from speed.stream import judged
from tests.declarations import user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CASES = Path(__file__).parents[1] / "cases"
SOURCE = replace(user_events, name="orders", topic="orders", table="orders")
EXPORT_MAPPING = {
    "user_id": "distinct_id",
    "session_id": "session",
    "event_type": "name",
    "event_timestamp": "time",
    "amount": "revenue",
}


def test_a_check_says_what_would_be_loaded_and_loads_nothing(spark: SparkSession, lake: Settings) -> None:
    with open_events(CASES / "B07-zero-time/year0.csv", SOURCE) as file:
        report = load_file(spark, lake, SOURCE, file, check=True)
    assert (report.read, report.loaded, report.quarantined, report.checked) == (2, 1, 1, True)
    assert (report.first_event, report.last_event) == ("2026-11-01T11:30:00.000Z",) * 2
    assert report.types == {"session_id": {"s": 1}, "event_type": {"VIEW": 1}}
    assert [(row["_row"], row["event_id"], row["_reason"]) for row in report.sample] == [
        (1, "z3", None),
        (2, "z4", "event_timestamp lies before 1970-01-02: 0000-06-01T00:00:00Z"),
    ]
    assert report.dialect.startswith("CSV with the delimiter ','")
    assert not DeltaTable.isDeltaTable(spark, lake.table(SOURCE.table))
    assert not DeltaTable.isDeltaTable(spark, lake.table("quarantine"))
    assert not (lake.home / "first_day.json").exists()


def test_a_time_of_year_zero_or_one_makes_no_day(spark: SparkSession, lake: Settings) -> None:
    for name in ("zero.csv", "year0.csv"):
        report = load_events(spark, lake, SOURCE, CASES / "B07-zero-time" / name)
        assert (report.loaded, report.quarantined) == (1, 1)
        assert report.reasons == {"event_timestamp lies before 1970-01-02": 1}
        assert (report.first_day, report.last_day) == (date(2026, 11, 1),) * 2


def test_a_delivery_that_overlaps_adds_only_what_is_new(spark: SparkSession, lake: Settings) -> None:
    folder = CASES / "A13-sparse-keys"
    assert load_events(spark, lake, SOURCE, folder / "export_day1.jsonl", EXPORT_MAPPING).loaded == 2
    report = load_events(spark, lake, SOURCE, folder / "export_day1_2.jsonl", EXPORT_MAPPING)
    assert (report.read, report.loaded, report.duplicates) == (3, 1, 2)
    assert report.last_event == "2026-11-01T11:30:00.000Z"
    events = spark.read.format("delta").load(lake.table(SOURCE.table))
    assert float(events.groupBy().sum("amount").collect()[0][0]) == 35.0


def test_a_row_of_csv_means_the_same_loaded_and_replayed(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(
        "event_id,user_id,session_id,event_type,amount,event_timestamp,item_id,properties\n"
        '1,17850.0,s,V,1e2,2026-11-01 11:30 EST,NULL,"{""a"":1}"\n'
        "2,x,s,V,,2026-11-01T11:30:00Z,i,\n"
        "3,1,s,V,0012.50,2026-11-01T11:30:00Z,i,[]\n"
        "4,1,s,V,1,2026-11-01T11:30:00Z,i,{broken\n"
        "5,1,s,V,1,2026-11-01 11:30 CET,i,\n"
        "6,+7,s,V,+1.5,1793532600,i,\n"
        "7,1\uff12,s,V,1,2026-11-01T11:30:00Z,i,\n"  # a digit two cells wide, as of a Japanese keyboard
        "8,1,s,V,1.234567890123456789e11,2026-11-01T11:30:00Z,i,\n"
        f"9,1,s,V,123456789012.123456{'0' * 30},2026-11-01T11:30:00Z,i,\n"
        "10,1,s,V,1\uff12.5,2026-11-01T11:30:00Z,i,\n"
    )
    with open_events(path, SOURCE, None, ReadOptions()) as file:
        replayed = [message for batch in file.batches() for message in messages_of(SOURCE, readable(batch))]
    report = load_events(spark, lake, SOURCE, path)
    assert (report.read, report.loaded, report.quarantined) == (10, 6, 4)
    assert set(report.reasons) == {
        "user_id is not a 64-bit integer",
        "properties is not a JSON object",
        "event_timestamp has a word behind the time that is no zone of a fixed offset",
    }
    rows = [(message.value, int(time.time() * 1_000)) for message in replayed]
    frame = judged(lake, spark.createDataFrame(rows, "value BINARY, arrival_ms BIGINT"), SOURCE, {})
    names = [column.name for column in SOURCE.columns]
    sent = sorted((tuple(row) for row in frame.where("_reason IS NULL").select(*names).collect()), key=str)
    loaded = spark.read.format("delta").load(lake.table(SOURCE.table)).select(*names)
    assert sorted((tuple(row) for row in loaded.collect()), key=str) == sent
    amounts = {row["event_id"]: str(row["amount"]) for row in loaded.collect()}
    assert (amounts["8"], amounts["9"], amounts["10"]) == ("123456789012.345679", "123456789012.123456", "12.500000")
    assert frame.where("_reason IS NOT NULL").count() == 3, "what the reader could not understand is not sent"


def test_a_label_of_a_probability_that_is_not_0_or_1_goes_to_quarantine_and_numbers_may_be_any(
    spark: SparkSession, lake: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("user_id,time,label\n" + "".join(f"{n},2026-11-01T10:00:0{n}Z,{n - 1}\n" for n in range(4)))
    binary = Model("returns", (user_features,), Labels())
    assert binary.labels is not None
    report = load_events(spark, lake, binary.labels, path)
    assert (report.loaded, report.reasons) == (2, {"label is not 0 or 1": 2})
    number = Model("amounts", (user_features,), Labels(), objective=Objective.REGRESSION)
    assert number.labels is not None
    assert load_events(spark, lake, number.labels, path).loaded == 4
