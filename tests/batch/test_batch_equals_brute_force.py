"""The batch layer on a generated data set, through real Spark, Delta and Valkey, against SQL written from the definition alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from pyspark.sql import functions as F

from batch.events import append_events
from batch.load import load_events
from batch.point_in_time import point_in_time
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, default_batch_end_ms
from features.declaration import FeatureGroup, count
from features.merge import merge
from features.packed import FORMAT, TileValue, batch_field, decode_batch, encode_log
from features.speed_tiles import decode_speed
from features.speed_value import speed_field
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.errors import NotReadyError
from infra.settings import Settings
from models.training_set import build_training_set
from store.clients import store
from store.keys import meta_key, stamp_field, version_of
from tests.declarations import repurchase, user_events, user_features
from tests.pure import speed_value

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BASE = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000)
END = BASE + 40 * DAY_MS + 7 * HOUR_MS + 123_456
USERS = 25
#: The days of the events, also those at which windows of a week and of thirty days begin. Each is a partition of two tables.
DAYS = (0, 9, 10, 11, 12, 19, 33, 34, 35, 38, 39)


def generated(seed: int, n: int = 3_000) -> list[dict[str, Any]]:
    """Events with duplicates, on boundaries of hops and days, without amounts, before batch_end by a millisecond."""
    source = random.Random(seed)
    events = []
    for index in range(n):
        at = source.choice([
            BASE + source.choice(DAYS) * DAY_MS + source.randrange(DAY_MS), source.randrange(END - 3 * HOUR_MS, END),
            BASE + source.choice(DAYS) * DAY_MS,
            END // (5 * MINUTE_MS) * 5 * MINUTE_MS - source.randrange(30) * 5 * MINUTE_MS - source.randrange(2), END - 1, END,
        ])  # fmt: skip
        amount = source.choice([None, round(source.uniform(-5, 500), 2), source.randrange(10**6) / 10**6])
        events.append({
            "event_id": f"e{index}", "user_id": source.randrange(USERS), "session_id": f"s{source.randrange(6)}",
            "event_type": source.choice(["PURCHASE", "VIEW", "PURCHASE"]), "amount": amount,
            "event_timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds"),
        })  # fmt: skip
    return events + source.sample(events, n // 20)


def write_lines(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def brute_force(path: Path, questions: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[Any, ...]]:
    """(user, q) → the six features, from the file, by the words of the declaration."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"CREATE TABLE e AS SELECT DISTINCT event_id, user_id, session_id, event_type, amount::DECIMAL(18, 6) AS amount, "
            f"epoch_ms(event_timestamp::TIMESTAMPTZ) AS t FROM read_json('{path}', columns = {{event_id: 'VARCHAR', user_id: 'BIGINT', "
            f"session_id: 'VARCHAR', event_type: 'VARCHAR', amount: 'VARCHAR', event_timestamp: 'VARCHAR'}})"
        )
        connection.execute("CREATE TABLE q (user_id BIGINT, q BIGINT)")
        connection.executemany("INSERT INTO q VALUES (?, ?)", questions)
        hour, week, month = (
            f"t >= (q - {size}) // {hop} * {hop}"
            for size, hop in ((HOUR_MS, 5 * MINUTE_MS), (7 * DAY_MS, HOUR_MS), (30 * DAY_MS, DAY_MS))
        )
        bought = "event_type = 'PURCHASE'"
        rows = connection.execute(
            f"""
            SELECT q.user_id, q.q, count(e.event_id) FILTER ({hour}), coalesce(sum(amount) FILTER ({hour} AND {bought}), 0)::DOUBLE,
                   count(DISTINCT session_id) FILTER ({hour}), count(e.event_id) FILTER ({week} AND {bought}),
                   (sum(amount) FILTER ({month} AND {bought}))::DOUBLE / nullif(count(amount) FILTER ({month} AND {bought}), 0),
                   (q.q - max(t) FILTER ({bought})) / {DAY_MS}.0::DOUBLE
            FROM q LEFT JOIN e ON e.user_id = q.user_id AND e.t < q.q GROUP BY q.user_id, q.q
            """
        ).fetchall()
    return {(user, q): tuple(values) for user, q, *values in rows}


def same(left: Any, other: Any) -> bool:
    return left == other or (left is not None and other is not None and abs(left - other) <= 1e-9 * abs(other))


def backfill(spark: SparkSession, settings: Settings, batch_end_ms: int = END) -> None:
    build_tiles(spark, settings, user_features, [date(2026, 3, 1) + timedelta(days=n) for n in range(41)])
    build_view(spark, settings, user_features, batch_end_ms)


@pytest.fixture(scope="module")
def loaded(
    spark: SparkSession,
    settings: Settings,
    valkey: Settings,
    compiling: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A lake of generated events, `events.jsonl` beside it, with tiles and a view."""
    home = tmp_path_factory.mktemp("loaded")
    settings = settings.model_copy(update={"lake_uri": str(home / "lake"), "home": home, "redis_url": valkey.redis_url})
    with compiling():
        report = load_events(spark, settings, user_events, write_lines(home / "events.jsonl", generated(1)))
        assert (report.read, report.loaded, report.duplicates, report.quarantined) == (3_150, 3_000, 150, 0)
        backfill(spark, settings)
    return settings


def copy(loaded: Settings, lake: Settings) -> None:
    """Copies the tables that the lake does not have."""
    for table in Path(loaded.lake_uri).iterdir():
        if not Path(lake.table(table.name)).exists():
            shutil.copytree(table, lake.table(table.name))


def test_the_published_view_is_brute_force_at_every_q_of_its_buffer(spark: SparkSession, loaded: Settings, tmp_path: Path) -> None:
    settings = loaded
    published = publish_view(spark, settings, user_features)
    client = store(settings)
    assert int(client.hget(meta_key("user_features"), "batch_end_ms")) == END == published.batch_end_ms

    before = tmp_path / "before.jsonl"
    write_lines(before, [e for e in generated(1) if datetime.fromisoformat(e["event_timestamp"]).timestamp() * 1_000 < END])
    instants = [END, END + 1, END + 7 * MINUTE_MS, END + HOUR_MS, END + DAY_MS + 1, END + 2 * DAY_MS]
    expected = brute_force(before, [(user, q) for user in range(USERS) for q in instants])
    cells = 0
    for (user, q), values in expected.items():
        view = decode_batch(client.hget(user_features.key(user), batch_field(user_features.fingerprint)), user_features.fingerprint)
        merged = merge(user_features, view, [], q)
        assert all(map(same, merged.values, values)), (user, q - END, merged.values, values)
        cells += len(values)
    assert cells == USERS * len(instants) * 6


def test_the_training_set_is_brute_force_at_each_label(
    spark: SparkSession, loaded: Settings, compiling: Callable[[], AbstractContextManager[None]]
) -> None:
    source = random.Random(3)
    questions = sorted(
        {
            (
                source.randrange(USERS + 2),
                source.choice([source.randrange(BASE, END + DAY_MS), END - 5 * MINUTE_MS, BASE + 35 * DAY_MS]),
            )
            for _ in range(300)
        }
    )
    labels = spark.createDataFrame(questions, "entity BIGINT, q_ms BIGINT")
    with compiling():
        rows = point_in_time(spark, loaded, user_features, labels).collect()
    expected = brute_force(loaded.home / "events.jsonl", questions)
    assert len(rows) == len(questions)
    for row in rows:
        values = tuple(row)[2:]
        assert all(map(same, values, expected[row["entity"], row["q_ms"]])), (row, expected[row["entity"], row["q_ms"]])


def test_no_feature_of_a_label_moves_when_its_future_changes(
    spark: SparkSession, loaded: Settings, lake: Settings, tmp_path: Path
) -> None:
    q_ms = END - DAY_MS
    copy(loaded, lake)
    labels = spark.createDataFrame([(user, q_ms) for user in range(USERS)], "entity BIGINT, q_ms BIGINT")
    before = sorted(map(tuple, point_in_time(spark, lake, user_features, labels).collect()))
    planted = [
        {"event_id": f"future{user}", "user_id": user, "session_id": "future", "event_type": "PURCHASE", "amount": 1e6,
         "event_timestamp": datetime.fromtimestamp((q_ms + user % 2) / 1_000, UTC).isoformat(timespec="milliseconds")}
        for user in range(USERS)
    ]  # fmt: skip
    assert load_events(spark, lake, user_events, write_lines(tmp_path / "future.jsonl", planted)).loaded == USERS
    assert sorted(map(tuple, point_in_time(spark, lake, user_features, labels).collect())) == before


def test_loading_and_folding_again_changes_nothing_and_late_events_heal(
    spark: SparkSession, loaded: Settings, lake: Settings, tmp_path: Path
) -> None:
    shutil.copytree(loaded.table("events"), lake.table("events"))
    again = load_events(spark, lake, user_events, loaded.home / "events.jsonl")
    assert (again.loaded, again.duplicates) == (0, 3_150)
    with pytest.raises(NotReadyError, match=r"no tiles|not up to date"):
        build_view(spark, lake, user_features, END)
    copy(loaded, lake)
    view = lake.table("view_user_features")

    def values() -> list[Any]:
        return sorted(spark.read.format("delta").load(view).select("entity", "packed").collect())

    first = values()
    backfill(spark, lake)
    assert values() == first
    assert stale_days(spark, lake, user_features) == []
    late = {**generated(1)[0], "event_id": "late", "event_timestamp": "2026-03-20T12:00:00Z", "amount": 5}
    load_events(spark, lake, user_events, write_lines(tmp_path / "late.jsonl", [late]))
    assert stale_days(spark, lake, user_features) == [date(2026, 3, 20)]
    with pytest.raises(NotReadyError, match="2026-03-20"):
        build_view(spark, lake, user_features, END)
    build_tiles(spark, lake, user_features, [date(2026, 3, 20)])
    build_view(spark, lake, user_features, END)
    assert values() != first


def test_misfits_go_to_quarantine_with_the_reason(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    good = generated(6, 1)[0]
    misfits = [
        {**good, "event_id": ""}, {**good, "user_id": "seven"}, {**good, "amount": "a lot"}, {**good, "event_timestamp": "2026-13-01T00:00:00Z"},
        {**good, "event_timestamp": "2999-01-01T00:00:00Z"}, {**good, "session_id": None}, {**good, "amount": 10**15},
    ]  # fmt: skip
    path = write_lines(tmp_path / "events.jsonl", [good, *misfits])
    path.write_text(path.read_text() + "{broken\n")
    report = load_events(spark, lake, user_events, path)
    assert (report.read, report.loaded, report.quarantined) == (9, 1, 8)
    quarantined = spark.read.format("delta").load(lake.table("quarantine")).orderBy("row").collect()
    assert [row["row"] for row in quarantined] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "user_id is not a 64-bit integer: seven" in [row["reason"] for row in quarantined]
    assert quarantined[-1]["content"] == "{broken"
    assert load_events(spark, lake, user_events, path).quarantined == 8
    assert spark.read.format("delta").load(lake.table("quarantine")).count() == 8


def test_an_entity_that_an_event_need_not_have_has_its_view(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    items = FeatureGroup("item_features", "item_id", user_events, (count("events_1d", window="1d"),))
    events = [{**event, "item_id": f"i{n % 3}"} if n % 2 else event for n, event in enumerate(generated(9, 60)[:60])]
    other_day = {**events[0], "event_id": "other", "event_timestamp": "2026-02-01T00:00:00Z"}  # a day of no item at all
    load_events(spark, lake, user_events, write_lines(tmp_path / "events.jsonl", [*events, other_day]))
    build_tiles(spark, lake, items, stale_days(spark, lake, items))
    assert stale_days(spark, lake, items) == []
    assert build_view(spark, lake, items, END + 1).entities == 3
    start = (END + 1 - DAY_MS) // HOUR_MS * HOUR_MS
    at = {e["event_id"]: round(datetime.fromisoformat(e["event_timestamp"]).timestamp() * 1_000) for e in events}
    expected = {f"i{n}": sum(e.get("item_id") == f"i{n}" and at[e["event_id"]] >= start for e in events) for n in range(3)}
    rows = spark.read.format("delta").load(lake.table("view_item_features")).select("entity", "events_1d").collect()
    assert {row["entity"]: row["events_1d"] for row in rows} == expected
    assert sum(expected.values()) > 0


def test_publishing_removes_tiles_of_the_past_and_never_goes_back(spark: SparkSession, loaded: Settings, lake: Settings) -> None:
    settings = lake.model_copy(update={"redis_url": loaded.redis_url})
    client = store(settings)
    client.flushdb()
    copy(loaded, settings)
    cut = END // (5 * MINUTE_MS) * 5 * MINUTE_MS
    key, speed = user_features.key(0), speed_field(user_features.fingerprint)
    tiles = [TileValue(FORMAT, user_features.fingerprint, at, at, [None] * 6, encode_log([])) for at in (cut - 5 * MINUTE_MS, cut)]
    client.hset(key, mapping={speed: speed_value(user_features, tiles), b"batch": b"3", b"t:0": b"4"})
    publish_view(spark, settings, user_features)
    stamp = stamp_field(version_of(user_features.fingerprint))
    assert set(client.hkeys(key)) == {batch_field(user_features.fingerprint), stamp, speed}, (
        "what no version in use has written is gone"
    )
    assert [tile.first_ms for tile in decode_speed(client.hget(key, speed), user_features)] == [cut], "what is past is gone"
    published = client.hget(key, batch_field(user_features.fingerprint))
    build_view(spark, settings, user_features, END - 1)
    with pytest.raises(NotReadyError, match="later than this view's"):
        publish_view(spark, settings, user_features)
    assert client.hget(key, batch_field(user_features.fingerprint)) == published
    client.flushdb()


def test_without_a_time_the_view_ends_where_the_batch_can_vouch(spark: SparkSession, lake: Settings) -> None:
    with pytest.raises(NotReadyError, match="no events"):
        default_batch_end_ms(spark, lake, user_events, END)
    typed = "event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18,6), event_timestamp TIMESTAMP, item_id STRING, "
    typed += "properties MAP<STRING,STRING>, ts_ms BIGINT, arrival_ms BIGINT, origin STRING, kafka_partition INT, kafka_offset BIGINT, _order BIGINT"

    def event(name: str, ts_ms: int, origin: str) -> tuple[Any, ...]:
        return (
            name,
            1,
            "s",
            "V",
            None,
            datetime.fromtimestamp(ts_ms / 1_000, UTC),
            None,
            None,
            ts_ms,
            ts_ms,
            origin,
            None,
            None,
            0,
        )

    append_events(spark, lake, user_events, spark.createDataFrame([event("a", END - HOUR_MS, "stream")], typed))
    assert default_batch_end_ms(spark, lake, user_events, END) == END - HOUR_MS - 10 * MINUTE_MS
    append_events(spark, lake, user_events, spark.createDataFrame([event("b", END - 2 * MINUTE_MS, "load")], typed))
    assert default_batch_end_ms(spark, lake, user_events, END) == END - 2 * MINUTE_MS + 1
    assert default_batch_end_ms(spark, lake, user_events, END - HOUR_MS) == END - HOUR_MS


def test_of_two_events_with_one_id_the_first_to_arrive_stays(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    first, second = generated(7, 2)[:2]
    second = {**second, "event_id": first["event_id"], "session_id": "second"}
    load_events(spark, lake, user_events, write_lines(tmp_path / "events.jsonl", [first, second]))
    rows = spark.read.format("delta").load(lake.table("events")).select("session_id").collect()
    assert [row["session_id"] for row in rows] == [first["session_id"]]


def test_a_training_set_of_few_events_is_empty_not_an_error(spark: SparkSession, lake: Settings, tmp_path: Path) -> None:
    load_events(spark, lake, user_events, write_lines(tmp_path / "events.jsonl", generated(8, 5)[:1]))
    assert build_training_set(spark, lake, repurchase, END).rows == 0
    assert spark.read.format("delta").load(lake.table(repurchase.training_table)).where(F.col("label") == 1).count() == 0
