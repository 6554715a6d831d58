"""An entity is forgotten in every place, and everybody else stays: on real tables, topics and keys."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from batch.erasure import Entity
from batch.events import ingest_archive
from batch.load import QUARANTINE, load_events
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days, tiles_table
from batch.view import build_view
from features.declaration import FeatureGroup, count
from features.merge import merge
from features.packed import batch_field, decode_batch
from features.project import Project
from features.speed_value import pack_tile
from features.windows import HOUR_MS
from infra.embedded import services
from infra.kafka import SERVED_TOPIC
from infra.settings import Settings
from orchestration import forget as steps
from orchestration.forget import ForgetReport, forget
from orchestration.topics import topics
from speed.archive import create_archive
from speed.offline import table_of, tile_schema_sql
from store.clients import store
from store.server import open_store
from tests import declarations
from tests.archive import append_messages
from tests.declarations import item_features, repurchase, user_events, user_features
from tests.pure import tiles_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

#: With `make test-long`: a batch with all of its checks, and a search of every place.
pytestmark = pytest.mark.long

END = int(datetime(2026, 3, 10, tzinfo=UTC).timestamp() * 1_000)
pairs = FeatureGroup("pairs", ("user_id", "item_id"), user_events, (count("purchases_1d", window="1d"),))
project = Project(declarations.project.sources, (*declarations.project.groups, pairs), declarations.project.models)
#: An id that no count, offset or time of the test is.
GONE = 771_717


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    settings = Settings.load(tmp_path_factory.mktemp("forget"))
    environment = dict(os.environ)  # Dagster's jobs run in this process, and set it
    try:
        services.up(settings, topics(project), only={"kafka", "valkey"})
        yield settings
    finally:
        services.down(settings)
        os.environ.clear()
        os.environ.update(environment)


def forget_gone(settings: Settings, fold: bool = True) -> ForgetReport:
    return forget(project, settings, (Entity("user_id", GONE),), fold)


def event(name: str, user: int | str, ms: int, **more: Any) -> dict[str, Any]:
    when = datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return {
        "event_id": name,
        "user_id": user,
        "session_id": "s",
        "event_type": "PURCHASE",
        "amount": 5,
        "event_timestamp": when,
        **more,
    }


def append(frame: DataFrame, settings: Settings, name: str) -> None:
    frame.coalesce(1).write.format("delta").mode("append").save(settings.table(name))


def archive(spark: SparkSession, settings: Settings, *values: str, first: int = 0) -> None:
    """As a micro-batch of the speed layer does."""
    create_archive(spark, settings, user_events)
    rows = [(user_events.topic, 0, first + n, END + first + n, b"key", value.encode()) for n, value in enumerate(values)]
    append_messages(spark, settings, user_events, rows)


def item(settings: Settings) -> dict[str, Any]:
    """What the store has of the item that everybody buys."""
    fields = store(settings).hgetall(item_features.key("cup"))
    value = decode_batch(fields[batch_field(item_features.fingerprint)], item_features.fingerprint)
    return dict(zip(item_features.feature_names, merge(item_features, value, [], END).values, strict=True))


def view_of(settings: Settings, user: int) -> bytes:
    """The packed view of a user, byte for byte; its stamp says when it was built."""
    packed = store(settings).hget(user_features.key(user), batch_field(user_features.fingerprint))
    assert packed
    return packed


def rows_on_disk(settings: Settings, name: str, column: str, value: Any) -> int:
    """In all files of a table, whichever version they are of."""
    files = [str(path) for path in Path(settings.table(name)).rglob("*.parquet") if "_delta_log" not in path.parts]
    with duckdb.connect() as connection:
        return sum(
            connection.execute(f"SELECT count(*) FROM read_parquet(?) WHERE {column} = ?", [path, value]).fetchone()[0]  # type: ignore[index]
            for path in files
        )


def fill(spark: SparkSession, settings: Settings) -> None:
    """Events of three users by a file and by the stream; misfits; tables of an older version; what was served."""
    loaded = [event(f"l{n}{user}", user, END - (n + 1) * HOUR_MS, item_id="cup") for user in (1, 2, GONE) for n in range(3)]
    misfits = [event("q1", GONE, END, amount="much"), event("q2", 1, END, amount="much"), event("q3", f"x {GONE}", END)]
    path = settings.home / "events.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*loaded, *misfits]))
    load_events(spark, settings, user_events, path)
    streamed = [json.dumps(event(f"s{user}", user, END - HOUR_MS, item_id="cup")) for user in (1, GONE)]
    archive(
        spark,
        settings,
        *streamed,
        f"no JSON of {GONE}",
        "no JSON",
        json.dumps(event("x", 1, END, amount="much", item_id=str(GONE))),
    )
    ingest_archive(spark, settings, user_events)
    for group in project.groups:
        build_tiles(spark, settings, group, stale_days(spark, settings, group))
        build_view(spark, settings, group, END)
        publish_view(spark, settings, group)
    # A pair that only the stream has seen: no table names it.
    [tile] = tiles_of(pairs, [{"user_id": GONE, "item_id": "a/b", "ts_ms": END + 1}])
    start_ms = END // pairs.tile_ms * pairs.tile_ms
    packed = pack_tile(pairs, start_ms, tile)
    open_store(settings).put_tiles(pairs, [(pairs.id_of((user, "a/b")), start_ms, packed) for user in (1, GONE)], 3_600)
    archive(spark, settings, json.dumps(event("new1", 1, END + 1)), json.dumps(event("new2", GONE, END + 1)), first=100)

    older = spark.createDataFrame([(GONE, 1), (1, 1)], "entity BIGINT, partial BIGINT")
    append(older, settings, f"tiles_{user_features.name}_{'0' * 16}")
    append(older, settings, repurchase.training_table)
    realtime = spark.createDataFrame([], tile_schema_sql(user_features))
    append(realtime.unionByName(older.select("entity"), allowMissingColumns=True), settings, table_of(user_features))
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    for user in (1, GONE):
        record = {"served_id": f"a{user}", "group": user_features.name, "entity": str(user), "q_ms": END}
        producer.send(SERVED_TOPIC, json.dumps(record).encode())
        producer.send(
            user_events.dlq_topic, json.dumps(event(f"d{user}", user, END, amount="much")).encode(), headers=[("reason", b"amount")]
        )
    producer.send(user_events.dlq_topic, b"no JSON", key=str(GONE).encode())
    producer.send(user_events.topic, json.dumps(event("kept", GONE, END)).encode(), key=str(GONE).encode())
    producer.flush()
    producer.close()


def messages(settings: Settings, topic: str) -> list[Any]:
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3_000)
    consumer.assign([TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()])
    try:
        return list(consumer)
    finally:
        consumer.close()


def test_an_entity_is_gone_from_every_place_and_everybody_else_stays(spark: SparkSession, deployment: Settings) -> None:
    settings = deployment
    fill(spark, settings)
    assert item(settings)["purchases_1d"] == 3 * 3 + 2
    assert GONE in item(settings)["top_buyers_1d"]
    views_of_others = {user: view_of(settings, user) for user in (1, 2)}

    report = forget_gone(settings)

    assert report.proven
    assert set(report.remaining.values()) == {0}
    erased = {place.removeprefix("table "): count for place, count in report.erased.items()}
    assert {name: erased[name] for name in ("raw_events", "events", QUARANTINE, SERVED_TOPIC)} == {
        "raw_events": 3, "events": 5, QUARANTINE: 2, SERVED_TOPIC: 1,
    }  # fmt: skip
    assert erased[f"topic {user_events.dlq_topic}"] == 2
    assert erased[f"store {user_features.name}"] == 1
    assert erased["store pairs"] == 2
    assert {key.decode() for key in store(settings).scan_iter("pairs:*")} == {"pairs:1/cup", "pairs:2/cup", "pairs:1/a~1b"}
    for name in (
        tiles_table(user_features),
        tiles_table(pairs),
        "view_pairs",
        f"view_{user_features.name}",
        repurchase.training_table,
        table_of(user_features),
    ):
        assert erased[name] >= 1, name
    for name in sorted(path.name for path in Path(settings.lake_uri).iterdir() if (path / "_delta_log").exists()):
        columns = spark.read.format("delta").load(settings.table(name)).columns
        if name.startswith(("tiles_user", "view_user", "training", f"{user_features.name}_")):
            assert rows_on_disk(settings, name, "entity", GONE) == 0, name
        elif "pairs" in name:
            assert rows_on_disk(settings, name, "entity", f"{GONE}/cup") == 0, name
        elif "user_id" in columns:
            assert rows_on_disk(settings, name, "user_id", GONE) == 0, name
        elif "value" in columns:
            assert rows_on_disk(settings, name, f"contains(CAST(value AS VARCHAR), '\"user_id\": {GONE}')", True) == 0, name
    assert any("1 of their messages" in sentence and user_events.topic in sentence for sentence in report.unproven)

    assert item(settings)["purchases_1d"] == 3 * 2 + 1
    assert GONE not in item(settings)["top_buyers_1d"]
    assert {user: view_of(settings, user) for user in views_of_others} == views_of_others
    assert not store(settings).exists(user_features.key(GONE))
    letters = messages(settings, user_events.dlq_topic)
    assert [json.loads(letter.value)["user_id"] for letter in letters] == [1]
    assert letters[0].headers == [("reason", b"amount")]
    table = spark.read.format("delta").load(settings.table(user_events.table))
    assert sorted(row["event_id"] for row in table.select("event_id").collect()) == [
        "l01",
        "l02",
        "l11",
        "l12",
        "l21",
        "l22",
        "new1",
        "s1",
    ]


def test_what_is_archived_afterwards_is_ingested_once_and_brings_nothing_back(spark: SparkSession, deployment: Settings) -> None:
    archive(spark, deployment, json.dumps(event("later", 2, END + 2)), first=200)
    assert ingest_archive(spark, deployment, user_events).added == 1
    assert ingest_archive(spark, deployment, user_events).added == 0
    table = spark.read.format("delta").load(deployment.table(user_events.table))
    assert table.where(f"user_id = {GONE}").count() == 0
    assert table.count() == 9
    again = forget_gone(deployment, fold=False)
    assert again.proven
    assert not any(again.erased.values())


def test_what_a_run_writes_that_has_begun_meanwhile_is_erased_too(
    spark: SparkSession, deployment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, erased, erase_rows = threading.Event(), threading.Event(), steps.erase_rows

    @dg.op
    def write_what_was_read_before() -> None:
        begun.set()
        assert erased.wait(60)
        append(spark.createDataFrame([(GONE, 1)], "entity BIGINT, partial BIGINT"), deployment, repurchase.training_table)

    @dg.job
    def automatic() -> None:
        write_what_was_read_before()

    def erase_while_a_run_begins(*arguments: Any) -> Any:
        if not begun.is_set():
            run = threading.Thread(target=automatic.execute_in_process, kwargs={"instance": dg.DagsterInstance.get()})
            run.start()
            assert begun.wait(60)
        result = erase_rows(*arguments)
        erased.set()
        return result

    monkeypatch.setattr(steps, "erase_rows", erase_while_a_run_begins)
    report = forget_gone(deployment, fold=False)
    assert report.proven
    assert report.erased[f"table {repurchase.training_table}"] == 1
