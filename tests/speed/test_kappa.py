"""Kappa through real Kafka, Spark, Valkey and Delta: what requests read equals brute force, from files, the archive and the stream, through kills.

One story is told to one deployment: a file is loaded before the stream begins; the process is killed; the store is lost when Kafka holds only a part of the
messages, and the archive another; an event comes late; the declaration changes.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from batch.load import load_events
from features.declaration import FeatureGroup
from features.merge import EVER_MS
from features.merge_many import ManyMerge
from features.packed import HistoryView
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.kafka import delete_messages, held
from infra.project import load_project
from infra.settings import Settings
from speed.completeness import new_token
from speed.replay import replay, wait_archived, wait_visible
from store.clients import store
from store.keys import version_of
from store.protocol import ALWAYS_MS, Reading, Tiles
from store.reading import OnlineStore
from store.server import open_store
from tests.oracle import oracle
from tests.waiting import eventually

from .aloud import batch_of, instant
from .process import Speed
from .test_stream_equals_brute_force import ITEMS, USERS, made

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(900)]

DEFINITIONS = """
from braid import Column, ColumnType, EventSource, FeatureGroup, Project, count, distinct, last_k, mean, since_last, total

events = EventSource(
    name="kappa_events", topic="kappa_events", table="events", key="user_id",
    columns=(
        Column("event_id", required=True), Column("user_id", ColumnType.INT64, required=True), Column("session_id"), Column("event_type"),
        Column("amount", ColumnType.DECIMAL), Column("event_timestamp", ColumnType.TIMESTAMP, required=True), Column("item_id"),
    ),
)
users = FeatureGroup(
    "users", "user_id", events,
    (
        count("events_1h", window="1h"), count("exact_1h", window="1h", tail="exact"), distinct("sessions_1d", of="session_id", window="1d"),
        total("spend_7d", of="amount", where="event_type = 'PURCHASE'", window="7d"), mean("amount_30d", of="amount", window="30d"),
        since_last("since", where="event_type = 'PURCHASE'", unit="days"), MORE
    ),
)
items = FeatureGroup("items", "item_id", events, (count("views_1d", where="event_type = 'VIEW'", window="1d"), last_k("buyers", of="session_id", k=3)))
project = Project(sources=(events,), groups=(users, items))
"""
MORE = 'count("events_ever")'


def declared(path: Path, more: str) -> None:
    path.write_text(DEFINITIONS.replace("MORE", more))


def unique(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each event once, in the types of the table."""
    first = {event["event_id"]: event for event in reversed(events)}
    return sorted(
        (
            {**event, "user_id": int(event["user_id"]), "amount": None if event["amount"] is None else Fraction(event["amount"])}
            for event in first.values()
        ),
        key=lambda event: event["ts_ms"],
    )


def read(settings: Settings, group: FeatureGroup, ids: list[int | str]) -> Reading:
    async def reading() -> Reading:
        online = OnlineStore(settings)
        try:
            return await online.read(group, ids)
        finally:
            await online.close()

    return asyncio.run(reading())


def differing(
    settings: Settings, group: FeatureGroup, events: list[dict[str, Any]], instants_ms: list[int]
) -> tuple[int, list[Any]]:
    """The number of cells, and those in which a request and brute force differ, or which are not exact."""
    ids: list[int | str] = list(range(USERS)) if group.name == "users" else list(ITEMS)
    reading, cells, different = read(settings, group, ids), 0, []
    assert (reading.group.fingerprint, reading.batch_end_ms, reading.complete_since_ms) == (group.fingerprint, EVER_MS, ALWAYS_MS)
    for q_ms in instants_ms:
        merge_at_q = ManyMerge(group, q_ms, reading.batch_end_ms, reading.complete_since_ms)
        for entity, parts in zip(ids, reading.parts, strict=True):
            merged = merge_at_q(parts.batch, parts.tiles)
            expected = oracle(group, events, entity, q_ms)
            pairs = zip(group.feature_names, merged.values, expected.values(), strict=True)
            cells += len(expected)
            different += [(entity, q_ms, name, a, b) for name, a, b in pairs if a != b or merged.reasons or parts.faults]
    return cells, different


@pytest.mark.parametrize("engine", ["spark", "flink"])
def test_every_cell_is_that_of_brute_force_from_files_archive_and_stream_through_kills_and_losses(
    tmp_path_factory: pytest.TempPathFactory, spark: Any, engine: str
) -> None:
    home = tmp_path_factory.mktemp("kappa")
    definitions = home / "definitions.py"
    declared(definitions, "")
    settings = Settings.load(home).model_copy(
        update={
            "architecture": "kappa",
            "engine": engine,
            "archive_seconds": 1,
            "offline_seconds": 600,
            "speed_memory": "768m",
            "project": f"{definitions}:project",
        }
    )
    [source] = load_project(settings).sources
    users, items = load_project(settings).groups
    of_engine = {"flink-jobmanager", "flink-taskmanager"} if engine == "flink" else set()
    services.up(settings, {source.topic: 2, source.dlq_topic: 1}, only={"kafka", "valkey", *of_engine})
    speed = Speed(settings)
    rng, sent = random.Random(11), list[dict[str, Any]]()
    now_ms = time.time_ns() // 1_000_000
    begin_ms, ends = now_ms - 6 * HOUR_MS, dict[int, int]()

    def stream(events: list[dict[str, Any]], **options: float) -> None:
        sent.extend(events)
        batches = [batch_of(events[at : at + 300]) for at in range(0, len(events), 300)]
        ends.update(replay(settings, source, batches, **options).end_offsets)

    def all_exact(events: list[dict[str, Any]], *, ahead_ms: int = 40 * DAY_MS) -> None:
        instants_ms = [now_ms, now_ms + 7 * MINUTE_MS + 1, now_ms + 3 * HOUR_MS, now_ms + ahead_ms]
        for group in load_project(settings).groups:
            cells, different = differing(settings, group, unique(events), instants_ms)
            assert cells
            assert not different, f"{len(different)} of {cells} cells differ, such as {different[:3]}"

    try:
        # A file with a month, which no topic ever held.
        filed = made(rng, 1_500, now_ms - 29 * DAY_MS, begin_ms, "file")
        lines = [{**{k: v for k, v in each.items() if k != "ts_ms"}, "event_timestamp": instant(each["ts_ms"])} for each in filed]
        (home / "file.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        assert load_events(spark, settings, source, home / "file.jsonl").loaded == 1_500
        speed.start()
        eventually(lambda: open_store(settings).published("items") is not None)
        stream(made(rng, 2_000, begin_ms, now_ms - 3 * HOUR_MS, "a"), speedup=2_000)
        speed.kill()
        stream(made(rng, 1_000, now_ms - 3 * HOUR_MS, now_ms - 2 * HOUR_MS, "b"))
        speed.start()
        wait_visible(settings, [users, items], ends)
        eventually(lambda: open_store(settings).published("items") is not None)
        all_exact([*filed, *sent])
        assert isinstance(read(settings, users, [1]).parts[0].batch, HistoryView)

        # The archive has "a" and "b", and not what comes while the process is down; Kafka has lost a part of what the archive has; the store is empty.
        wait_archived(settings, source, ends)
        archived = dict(ends)
        speed.kill()
        stream(made(rng, 600, now_ms - 2 * HOUR_MS, now_ms - HOUR_MS, "c"))
        delete_messages(settings, source.topic, {partition: offset // 2 for partition, offset in archived.items()})
        store(settings).flushall()
        speed.start()
        eventually(lambda: open_store(settings).published("items") is not None)
        wait_visible(settings, [users, items], ends)
        stored = open_store(settings).tiles("users")[version_of(users.fingerprint)]
        assert (stored.begins, stored.whole, stored.complete_since_ms) == (archived, True, None)
        assert all(
            0 < partition_held.earliest < archived[partition] for partition, partition_held in held(settings, source.topic).items()
        )
        all_exact([*filed, *sent])

        # What the watermark has closed stays as it is: the late event is in the archive alone.
        stream(made(rng, 600, now_ms - HOUR_MS, now_ms - MINUTE_MS, "d"))
        wait_visible(settings, [users, items], ends)
        in_time = [*filed, *sent]
        late = {
            **in_time[0],
            "event_id": "late",
            "user_id": "3",
            "amount": "1000000.00",
            "ts_ms": now_ms - 5 * HOUR_MS,
            "event_type": "PURCHASE",
        }
        stream([late])
        wait_visible(settings, [users, items], ends)
        all_exact(in_time)
        wait_archived(settings, source, ends)

        # A changed declaration begins with the archive, beside the version that is served, and so has the late event.
        assert speed.stop() == 0
        declared(definitions, MORE)
        speed.launch()
        changed, same = load_project(settings).groups
        assert read(settings, changed, [1]).group.fingerprint == users.fingerprint
        eventually(lambda: open_store(settings).published("users").fingerprint == changed.fingerprint)
        assert same.fingerprint == items.fingerprint
        cells, different = differing(settings, changed, unique([*filed, *sent]), [now_ms, now_ms + 40 * DAY_MS])
        assert cells == 2 * USERS * 7
        assert not different, f"{len(different)} of {cells} cells differ, such as {different[:3]}"
        cells, different = differing(settings, items, unique(in_time), [now_ms])
        assert not different, "a version that has not changed goes on"

        # Who asks for new histories gets them from the archive: the stream begins anew.
        open_store(settings).set_tiles(items, Tiles(new_token(), whole=False, history=stored.history))
        assert speed.wait() == 1
        assert "New histories were asked for" in speed.log.read_text()
    finally:
        speed.stop()
        services.down(settings)
