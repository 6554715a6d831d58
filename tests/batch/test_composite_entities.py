"""Entities of several columns: batch, stream, point in time and erasure, on Spark and Delta, against brute force."""

from __future__ import annotations

import json
import random
import shutil
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from batch.erasure import Entity, count_rows, erase_rows, forget_days
from batch.load import load_events
from batch.point_in_time import point_in_time
from batch.publish import publish_view
from batch.tiles import build_tiles, stale_days, tiles_table
from batch.view import build_view
from features.declaration import FeatureGroup, count, distinct, total
from features.merge import merge
from features.model import Model, Outcome
from features.project import Project
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.settings import Settings
from models.training_set import build_training_set
from orchestration.proof import brute_force
from speed.fold import contributions_of, fold
from speed.stream import by_entity, contributions, input_names
from store.server import open_store
from tests.declarations import user_events, user_features
from tests.oracle import oracle
from tests.pure import Event

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pairs = FeatureGroup(
    "pairs", ("user_id", "item_id"), user_events,
    (count("events_1h", window="1h"), total("spend_3d", of="amount", window="3d"), distinct("sessions", of="session_id")),
)  # fmt: skip
views = Model("views", (pairs,), Outcome(where="event_type = 'PURCHASE'", at="event_type = 'VIEW'", within="2h"))
project = Project(sources=(user_events,), groups=(user_features, pairs), models=(views,))
START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000)
END = START + 4 * DAY_MS + 7 * HOUR_MS + 123
ITEMS = ("cup", "1", "a/b", "a~1b", "~", "ü'\"`\\", "\U0001f986", "", None)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    rng = random.Random(11)
    return [
        {
            "event_id": f"e{n}", "user_id": rng.choice((-1, 1, 11, 2**63 - 1)), "session_id": f"s{rng.randrange(3)}", "item_id": rng.choice(ITEMS),
            "event_type": rng.choice(("PURCHASE", "VIEW")), "amount": rng.choice((None, Fraction(rng.randrange(10_000), 100))),
            "ts_ms": rng.choice((rng.randrange(START, END), END - rng.randrange(2 * HOUR_MS), END - 1)),
        }
        for n in range(700)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(
    spark: SparkSession, settings: Settings, valkey: Settings, events: list[Event], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """The deployment with a lake for all tests: the events, the views of all groups, and the training set of the model."""
    home = tmp_path_factory.mktemp("pairs")
    settings = settings.model_copy(update={"lake_uri": str(home / "lake"), "home": home, "redis_url": valkey.redis_url})
    path = home / "events.jsonl"
    path.write_text("".join(json.dumps(line(event)) + "\n" for event in events))
    assert load_events(spark, settings, user_events, path).loaded == len(events)
    for group in project.groups:
        build_tiles(spark, settings, group, stale_days(spark, settings, group))
        build_view(spark, settings, group, END)
    build_training_set(spark, settings, views, END)
    return settings


@pytest.fixture
def copied(loaded: Settings, lake: Settings) -> Settings:
    """The deployment with a copy of that lake, in which a test may write."""
    shutil.copytree(loaded.lake_uri, lake.lake_uri)
    return lake


def line(event: Event) -> dict[str, Any]:
    at = datetime.fromtimestamp(event["ts_ms"] / 1_000, UTC).isoformat(timespec="milliseconds")
    amount = None if event["amount"] is None else str(float(event["amount"]))
    row = {**event, "amount": amount, "event_timestamp": at}
    return {name: value for name, value in row.items() if value is not None and name != "ts_ms"}


def entities_of(events: list[Event]) -> list[tuple[int, str]]:
    return sorted({(event["user_id"], event["item_id"]) for event in events if event["item_id"]})


def named(values: Any) -> dict[str, Any]:
    return dict(zip(pairs.feature_names, values, strict=True))


def test_every_layer_says_of_a_pair_what_brute_force_says(spark: SparkSession, loaded: Settings, events: list[Event]) -> None:
    entities = entities_of(events)
    assert len(entities) == 4 * 7
    publish_view(spark, loaded, pairs)
    reading = open_store(loaded).read(pairs, [*(pairs.id_of(entity) for entity in entities), "1/nothing"])
    for entity, parts in zip(entities, reading.parts, strict=False):
        for q_ms in (END, END + 20 * MINUTE_MS, END + DAY_MS):
            assert named(merge(pairs, parts.batch, [], q_ms).values) == oracle(pairs, events, entity, q_ms), (entity, q_ms)
    assert not reading.parts[-1].known

    questions = [(pairs.id_of(entity), START + DAY_MS + n * HOUR_MS) for n, entity in enumerate([*entities, (1, "nothing")])]
    rows = point_in_time(spark, loaded, pairs, spark.createDataFrame(questions, "entity STRING, q_ms BIGINT")).collect()
    assert len(rows) == len(questions)
    for entity_id, q_ms, *values in map(tuple, rows):
        assert named(values) == oracle(pairs, events, pairs.values_of(entity_id), q_ms), (entity_id, q_ms)

    # The stream: the same events as rows of Kafka, folded into tiles alone.
    table = spark.read.format("delta").load(loaded.table(user_events.table))
    typed = table.withColumns(
        {"kafka_partition": F.lit(0), "kafka_offset": F.monotonically_increasing_id(), "arrival_ms": F.col("ts_ms")}
    )
    folded = by_entity(project.groups, contributions(project.groups, typed)).where("slot = 1").toArrow()
    new = contributions_of(pairs, folded, input_names(project.groups, pairs))
    tiles = fold(pairs, new)
    assert sorted(new.entities) == sorted(pairs.id_of(entity) for entity in entities)
    for entity in entities:
        its = [tile for entity_id, _, tile in tiles if entity_id == pairs.id_of(entity)]
        assert named(merge(pairs, None, its, END).values) == oracle(pairs, events, entity, END), entity


def test_the_proof_of_a_pair_is_brute_force_in_another_engine(
    spark: SparkSession, loaded: Settings, events: list[Event], tmp_path: Path
) -> None:
    path = tmp_path / "known"
    table = spark.read.format("delta").load(loaded.table(user_events.table))
    table.drop("properties").coalesce(1).write.parquet(str(path))
    entities = entities_of(events)
    proven = brute_force(pairs, sorted(path.glob("*.parquet")), [pairs.id_of(entity) for entity in entities], END)
    for entity in entities:
        expected, values = oracle(pairs, events, entity, END), proven[pairs.id_of(entity)]
        assert {name: pytest.approx(value) for name, value in expected.items()} == values, entity


def test_a_model_about_pairs_has_a_training_set_by_pair(spark: SparkSession, loaded: Settings, events: list[Event]) -> None:
    rows = spark.read.format("delta").load(loaded.table(views.training_table)).collect()
    bought = [event for event in events if event["event_type"] == "PURCHASE"]
    assert len(rows) > 50
    assert {row["label"] for row in rows} == {0, 1}
    for row in rows:
        entity, q_ms = pairs.values_of(row["entity"]), row["q_ms"]
        assert {name: row[name] for name in pairs.feature_names} == oracle(pairs, events, entity, q_ms), row
        follows = any(
            (event["user_id"], event["item_id"]) == entity and q_ms < event["ts_ms"] < q_ms + 2 * HOUR_MS for event in bought
        )
        assert row["label"] == follows, row


@pytest.mark.parametrize(("column", "value"), [("user_id", 1), ("item_id", "a/b")])
def test_forgetting_a_part_erases_every_pair_with_it_and_no_other(
    spark: SparkSession, copied: Settings, events: list[Event], column: str, value: int | str
) -> None:
    served = [("pairs", pairs.id_of(entity)) for entity in entities_of(events)] + [("user_features", "1"), ("user_features", "11")]
    spark.createDataFrame(served, "group STRING, entity STRING").write.format("delta").save(copied.table("served_features"))
    entity, tables = Entity(column, value), [tiles_table(pairs), "view_pairs", views.training_table, "served_features"]
    before = {name: rows_of(spark, copied, name) for name in tables}
    assert all(len(rows) > 20 for rows in before.values())

    deleted, days = erase_rows(spark, copied, project, entity)
    forget_days(spark, copied, project, entity, days)

    place = pairs.entity_names.index(column)
    for name in tables:
        mine = [row for row in before[name] if is_of(row, place, value)]
        assert deleted[name] == len(mine) > 0, name
        assert sorted(rows_of(spark, copied, name)) == sorted(row for row in before[name] if row not in mine), name
    assert set(count_rows(spark, copied, project, entity).values()) == {0}


def rows_of(spark: SparkSession, settings: Settings, name: str) -> list[tuple[str, str]]:
    """The group and the entity of each row of a table."""
    table = spark.read.format("delta").load(settings.table(name))
    group = "`group`" if "group" in table.columns else "'pairs'"
    return [(row["group"], row["entity"]) for row in table.selectExpr(f"{group} AS `group`", "entity").collect()]


def is_of(row: tuple[str, str], place: int, value: int | str) -> bool:
    group, entity_id = row
    return pairs.values_of(entity_id)[place] == value if group == "pairs" else place == 0 and entity_id == str(value)
