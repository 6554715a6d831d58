"""Every aggregation with both tails, of texts as entities, through real Spark and Delta, against the proof's SQL over the raw events."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from batch.load import load_events
from batch.partials import partial_columns_sql, partials_from_arrow
from batch.point_in_time import point_in_time
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days
from batch.view import build_view, view_table
from features.aggregations import Series, Value
from features.declaration import (
    FeatureGroup,
    approx_distinct,
    count,
    distinct,
    last,
    last_k,
    maximum,
    mean,
    minimum,
    since_last,
    stddev,
    top_k,
    total,
    variance,
)  # fmt: skip
from features.merge import merge
from features.packed import BatchValue, TileValue, decode_batch
from features.speed_value import pack_tile
from features.tiles import fold_ranges
from features.windows import BUFFER_MS, DAY_MS, HOUR_MS, MINUTE_MS
from infra.settings import Settings
from monitoring.consistency import check_consistency
from monitoring.served import SCHEMA as SERVED_SCHEMA
from monitoring.served import TABLE as SERVED
from orchestration.proof import agree, brute_force
from serving.answer import feature_rows, served_features
from serving.served_log import served_record
from speed.fold import contributions_of, fold, fold_into
from speed.stream import by_entity, contributions, input_names
from store.clients import store
from store.keys import meta_key
from store.protocol import OpenTiles, Parts
from tests.declarations import user_events
from tests.pure import joined, unpacked

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

BOUGHT = "event_type = 'PURCHASE'"
EVERYTHING = FeatureGroup(
    name="everything",
    entity="item_id",
    source=user_events,
    features=(
        count("n", window="1h"), count("n_exact", window="1h", tail="exact"), count("n_minute", window="1min", tail="exact"),
        total("sum", of="amount", window="2d", tail="exact"), mean("mean", of="amount", where=BOUGHT, window="7d", tail="exact"),
        variance("variance", of="amount", window="7d"), stddev("stddev", of="amount", window="7d", tail="exact"),
        minimum("min", of="amount", window="3d"), maximum("max", of="amount", window="30d", tail="exact"),
        last("last", of="amount", window="1d"), last_k("last_amounts", of="amount", k=3, window="26h", tail="exact"),
        last_k("last_sessions", of="session_id", k=3), top_k("top_users", of="user_id", k=2, where=BOUGHT, window="1d", bound=3),
        top_k("top_sessions", of="session_id", k=2, window="7d", tail="exact"), distinct("sessions", of="session_id", window="7d"),
        distinct("sessions_exact", of="session_id", window="3d", tail="exact"),
        approx_distinct("users", of="user_id", window="1h", precision=4),
        approx_distinct("users_exact", of="user_id", where=BOUGHT, window="2d", tail="exact"),
        since_last("since", window="3d", tail="exact"), since_last("since_ever", unit="hours"),
    ),
)  # fmt: skip
BASE = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000)
DAYS = 36
ITEMS = ["7", " 7", "a:b", "ü b:", "\U0001f986", "\uffff", "{tag}x", "'\"`", "x" * 256, *map(str, range(100, 115))]


def generated(seed: int, batch_end_ms: int, n: int = 4_000) -> list[dict[str, Any]]:
    """Events of items of any spelling and of none, many around batch_end and beside the edges of hops and windows, some of them twice."""
    source = random.Random(seed)
    # A few of all days: each is a partition of two tables.
    days = [*source.sample(range(-90, 0), 6), *source.sample(range(DAYS), 8)]
    reaches = [0, MINUTE_MS, HOUR_MS, 26 * HOUR_MS, DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 7 * DAY_MS, 30 * DAY_MS]
    events = []
    for index in range(n):
        at = source.choice([
            BASE + source.choice(days) * DAY_MS + source.randrange(DAY_MS), batch_end_ms - source.randrange(3 * DAY_MS),
            batch_end_ms + source.randrange(-2 * HOUR_MS, 2 * HOUR_MS),
            batch_end_ms - source.choice(reaches) + source.choice((-1, 0, 1, source.randrange(BUFFER_MS))),
            batch_end_ms // HOUR_MS * HOUR_MS - source.randrange(60) * 5 * MINUTE_MS - source.randrange(2),
        ])  # fmt: skip
        events.append({
            "event_id": f"e{index}", "user_id": source.randrange(6), "session_id": source.choice(["s", " s", "ü:s", "\U0001f986"]),
            "event_type": source.choice(["PURCHASE", "VIEW"]), "item_id": source.choice([None, "", "x" * 257, *ITEMS * 3]),
            "amount": source.choice([None, f"{source.randrange(-500, 10**5) / 100:.2f}", "0.000001", "999999.999999"]),
            "event_timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds"),
        })  # fmt: skip
    return events + source.sample(events, n // 20)


def write(folder: Path, events: list[dict[str, Any]], name: str = "events") -> tuple[Path, Path]:
    """The events as JSON lines, to be loaded, and as Parquet, for brute force."""
    lines, parquet = folder / f"{name}.jsonl", folder / f"{name}.parquet"
    lines.write_text("".join(json.dumps(event) + "\n" for event in events))
    columns = "{event_id: 'VARCHAR', user_id: 'BIGINT', session_id: 'VARCHAR', event_type: 'VARCHAR', item_id: 'VARCHAR', amount: 'VARCHAR', event_timestamp: 'VARCHAR'}"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM read_json('{lines}', columns = {columns})) TO '{parquet}' (FORMAT parquet)")
    return lines, parquet


def batch_views(spark: SparkSession, settings: Settings, group: FeatureGroup, batch_end_ms: int) -> dict[str, BatchValue]:
    build_tiles(spark, settings, group, stale_days(spark, settings, group))
    build_view(spark, settings, group, batch_end_ms)
    rows = spark.read.format("delta").load(settings.table(view_table(group))).select("entity", "packed").collect()
    return {row["entity"]: decode_batch(bytes(row["packed"]), group.fingerprint) for row in rows}


def speed_tiles(settings: Settings, group: FeatureGroup, events: DataFrame) -> dict[str, list[TileValue]]:
    """The tiles that the speed layer's own projections and fold make of the events, in several micro-batches."""
    typed = events.withColumn("kafka_partition", F.lit(0)).withColumn("kafka_offset", F.monotonically_increasing_id())
    rows = by_entity([group], contributions([group], typed)).toArrow().sort_by("ts_ms")
    rows = rows.set_column(rows.schema.get_field_index("kafka_offset"), "kafka_offset", pa.array(range(len(rows))))
    opened: dict[int | str, OpenTiles] = {}
    packed: dict[int | str, dict[int, bytes]] = {}
    joins: dict[int | str, dict[int, TileValue]] = {}
    for begun in range(0, len(rows), 700):
        new = contributions_of(group, rows.slice(begun, 700), input_names([group], group))
        tiles, offsets = fold_into(group, new, [opened.get(entity) for entity in new.entities])
        for entity, start_ms, data in tiles:
            packed.setdefault(entity, {})[start_ms] = data
        for entity, start_ms, value in fold(group, new):
            known = joins.setdefault(entity, {}).get(start_ms)
            joins[entity][start_ms] = joined(group, known, value) if known else value
        opened |= {entity: OpenTiles(folded, packed[entity]) for entity, folded in offsets.items()}
    for entity, its in joins.items():
        for start_ms, value in its.items():
            assert packed[entity][start_ms] == pack_tile(group, start_ms, value), (entity, start_ms)
    return {str(entity): [unpacked(group, start_ms, data) for start_ms, data in its.items()] for entity, its in packed.items()}


def differing(group: FeatureGroup, values: Mapping[str, Value], right: Mapping[str, Value]) -> list[tuple[str, Value, Value]]:
    return [(f.name, values[f.name], right[f.name]) for f in group.features if not agree(f, values[f.name], right[f.name])]


@dataclass(frozen=True)
class Built:
    """A lake of generated events: the views of its items as of batch_end, and the tiles that the speed layer makes of all events."""

    settings: Settings
    parquet: Path
    batch_end_ms: int
    views: Mapping[str, BatchValue]
    streamed: Mapping[str, list[TileValue]]


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.long)])
def built(
    request: pytest.FixtureRequest,
    spark: SparkSession,
    settings: Settings,
    compiling: Callable[[], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    home, batch_end_ms = tmp_path_factory.mktemp("built"), BASE + random.Random(request.param).randrange(32 * DAY_MS, 34 * DAY_MS)
    settings = settings.model_copy(update={"lake_uri": str(home / "lake"), "home": home})
    lines, parquet = write(home, generated(request.param, batch_end_ms))
    with compiling():
        load_events(spark, settings, user_events, lines)
        views = batch_views(spark, settings, EVERYTHING, batch_end_ms)
        streamed = speed_tiles(settings, EVERYTHING, spark.read.format("delta").load(settings.table("events")))
    return Built(settings, parquet, batch_end_ms, views, streamed)


def test_view_and_tiles_merged_are_the_training_set_are_tiles_alone_are_brute_force(
    spark: SparkSession, built: Built, compiling: Callable[[], AbstractContextManager[None]]
) -> None:
    source, group, views, streamed, batch_end_ms = random.Random(1), EVERYTHING, built.views, built.streamed, built.batch_end_ms
    assert set(streamed) == set(ITEMS), "an event without an item, with an empty id, or with an id that is too long, has no tile"
    ahead = [0, 1, BUFFER_MS, *(source.randrange(BUFFER_MS) for _ in range(4)), *(source.randrange(2 * HOUR_MS) for _ in range(3))]
    instants = [batch_end_ms + offset_ms for offset_ms in ahead]
    ids = [*ITEMS, "nobody"]
    labels = spark.createDataFrame([(entity, q_ms) for entity in ids for q_ms in instants], "entity STRING, q_ms BIGINT")
    with compiling():
        trained = point_in_time(spark, built.settings, group, labels).collect()
    rows = {(row["entity"], row["q_ms"]): row.asDict() for row in trained}
    cells = 0
    for q_ms in instants:
        right = brute_force(group, [built.parquet], ids, q_ms)
        for entity in ids:
            merged = merge(group, views.get(entity), streamed.get(entity, []), q_ms, batch_end_ms)
            assert merged.degraded == ()
            values = dict(zip(group.feature_names, merged.values, strict=True))
            assert not differing(group, values, right[entity]), (entity, q_ms - batch_end_ms)
            # Among the layers to the bit, also where they estimate.
            assert merge(group, None, streamed.get(entity, []), q_ms, batch_end_ms).values == merged.values
            assert {name: rows[entity, q_ms][name] for name in group.feature_names} == values
            cells += len(values)
    assert cells == len(instants) * len(ids) * len(group.features)


def test_a_planted_future_moves_no_feature_of_the_training_set(
    spark: SparkSession, built: Built, lake: Settings, tmp_path: Path
) -> None:
    q_ms = built.batch_end_ms + 3 * HOUR_MS
    shutil.copytree(built.settings.table("events"), lake.table("events"))
    labels = spark.createDataFrame(
        [(item, q_ms - past_ms) for item in ITEMS for past_ms in (0, 1, HOUR_MS)], "entity STRING, q_ms BIGINT"
    )

    def features() -> dict[tuple[str, int], dict[str, Any]]:
        rows = point_in_time(spark, lake, EVERYTHING, labels).collect()
        return {(row["entity"], row["q_ms"]): row.asDict() for row in rows}

    before = features()
    assert any(row["top_sessions"] and row["users_exact"] for row in before.values())
    planted = [
        {"event_id": f"future {item} {ahead_ms}", "user_id": 99, "session_id": "future", "event_type": "PURCHASE", "item_id": item,
         "amount": "999999999", "event_timestamp": datetime.fromtimestamp((q_ms + ahead_ms) / 1_000, UTC).isoformat(timespec="milliseconds")}
        for item in ITEMS for ahead_ms in (0, 1, DAY_MS)
    ]  # fmt: skip
    assert load_events(spark, lake, user_events, write(tmp_path, planted, "future")[0]).loaded == len(planted)
    assert features() == before
    later = labels.withColumn("q_ms", F.col("q_ms") + 1)
    assert all(
        row["last"] == 999_999_999 for row in point_in_time(spark, lake, EVERYTHING, later.where(f"q_ms > {q_ms}")).collect()
    )


def test_the_check_of_what_was_served_holds_lists_and_finds_a_wrong_one(spark: SparkSession, built: Built) -> None:
    group, lake, views, streamed, batch_end_ms = EVERYTHING, built.settings, built.views, built.streamed, built.batch_end_ms
    q_ms, records = batch_end_ms + HOUR_MS, []
    for item in ITEMS:
        served = served_features(group, Parts(views.get(item), streamed.get(item, [])), q_ms, batch_end_ms)
        if item == "a:b":
            served.merged.values[group.feature_names.index("top_sessions")] = ["wrong"]
        record = served_record(group, item, served, feature_rows(group, [item], [served], q_ms)[0].provenance, q_ms, q_ms)
        records.append({**record, "features": json.dumps(record["features"])})
    schema = spark.createDataFrame([], SERVED_SCHEMA).schema
    rows = [tuple(record.get(name) for name in schema.names) for record in records]
    spark.createDataFrame(rows, schema).write.format("delta").save(lake.table(SERVED))
    report = check_consistency(spark, lake, group, q_ms)
    assert (report.answers, report.defects) == (len(ITEMS), 1)
    assert (report.examples[0].entity, report.examples[0].feature) == ("a:b", "top_sessions")


def test_a_group_without_any_entity_has_an_empty_view_that_can_be_published(
    spark: SparkSession, lake: Settings, valkey: Settings, tmp_path: Path
) -> None:
    events = [{**event, "item_id": None} for event in generated(4, BASE + 20 * DAY_MS, 20)]
    load_events(spark, lake, user_events, write(tmp_path, events)[0])
    days = stale_days(spark, lake, EVERYTHING)
    assert build_tiles(spark, lake, EVERYTHING, days).tiles == 0
    assert stale_days(spark, lake, EVERYTHING) == []
    settings = lake.model_copy(update={"redis_url": valkey.redis_url})
    for batch_end_ms in (BASE + 20 * DAY_MS, BASE + 21 * DAY_MS):
        assert build_view(spark, lake, EVERYTHING, batch_end_ms).entities == 0
        assert publish_view(spark, settings, EVERYTHING).entities == 0
        # What the stream brings is exact from there on.
        assert int(store(settings).hget(meta_key("everything"), "batch_end_ms")) == batch_end_ms


def test_every_partial_passes_through_a_delta_table_unchanged(spark: SparkSession, lake: Settings) -> None:
    group, rng, n = EVERYTHING, np.random.default_rng(1), 400
    ts_ms = np.sort(rng.integers(0, 50, n))
    inputs = []
    for used in group.inputs:
        texts = np.array(rng.choice(["", "a", "ü:ü", "\U0001f986"], n), dtype=object)
        hashes = rng.integers(-(2**63), 2**63, n)
        inputs.append(Series(ts_ms, texts if used.text else hashes, rng.random(n) < 0.7))
    lo = np.sort(rng.integers(0, n, 60))
    hi = np.minimum(lo + rng.integers(0, 200, 60), n)
    lo, hi = np.searchsorted(ts_ms, ts_ms[lo]), np.searchsorted(ts_ms, ts_ms[hi - 1], side="right")
    hi[:5] = lo[:5]
    partials = fold_ranges(group, inputs, lo, hi)
    assert [] in partials[group.feature_names.index("top_users")], "also what has no answer"
    assert all(None in column for column in partials)

    path = lake.table("partials")
    schema = spark.createDataFrame([], f"row INT, {partial_columns_sql(group)}").schema
    rows = [(row, *columns) for row, columns in enumerate(zip(*partials, strict=True))]
    spark.createDataFrame(rows, schema).repartition(3).write.format("delta").save(path)
    table = spark.read.format("delta").load(path).orderBy("row").toArrow()
    for name, column in zip(group.feature_names, partials, strict=True):
        assert partials_from_arrow(table[name]) == column, name
        # As a slice of a column, too.
        assert partials_from_arrow(pa.chunked_array([table[name].combine_chunks()[7:]])) == column[7:], name
