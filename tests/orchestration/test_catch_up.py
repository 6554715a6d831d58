"""A batch that ends at a declared time needs an archive that has all messages of Kafka; another one ends where the archive does. What is published
without the tiles of the stream says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from batch.load import load_events
from features.instants import now_ms, rfc3339, utc_day
from infra.errors import NotReadyError
from infra.kafka import Held
from infra.settings import Settings
from orchestration import catch_up
from orchestration.assets.batch import events_asset
from orchestration.catch_up import wait_for_archive, wait_for_tiles
from orchestration.deployment import BatchEnd, Deployment
from orchestration.names import QUALITY_JOB, events_key, features_job
from orchestration.run_days import RANGE_END, RANGE_START
from speed import visible
from speed.batch_reads import BatchRead, recorded
from speed.completeness import open_stream
from store.clients import store
from store.keys import version_of
from store.protocol import ALWAYS_MS, NEVER_MS
from store.server import open_store
from tests.declarations import project, user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

END_MS = 1_779_235_200_000


@pytest.fixture
def deployment(valkey: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Kafka has seven messages, and there is no waiting."""
    store(valkey).flushall()
    monkeypatch.setattr(catch_up, "WAIT_SECONDS", 0)
    monkeypatch.setattr(catch_up, "end_offsets", lambda *_: {0: 7})
    monkeypatch.setattr(visible, "topic_id", lambda *_: None)
    services(monkeypatch, "kafka", "speed")
    yield valkey
    store(valkey).flushall()


def services(monkeypatch: pytest.MonkeyPatch, *running: str, ailing: bool = False) -> None:
    monkeypatch.setattr(catch_up, "runs", lambda _, name: name in running)
    monkeypatch.setattr(catch_up, "ailment", lambda *_: "it does not answer yet" if ailing else None)


def archived(settings: Settings, offset: int, silent_ms: int = 90_000) -> None:
    entry = {"offsets": {"0": offset}, "written_at_ms": now_ms() - silent_ms}
    open_store(settings).set_progress({f"archive:{user_events.name}": entry})


@pytest.mark.parametrize(
    ("running", "ailing", "cause"),
    [
        (("kafka", "speed"), False, "2 of the messages sent are not yet in the archive"),
        (("kafka",), False, "The speed layer does not run"),
        (("speed",), False, "Kafka does not run"),
        (("kafka", "speed"), True, "Kafka does not run, or does not answer"),
    ],
)
def test_an_archive_that_is_behind_refuses_a_batch_with_a_declared_end(
    deployment: Settings, monkeypatch: pytest.MonkeyPatch, running: tuple[str, ...], ailing: bool, cause: str
) -> None:
    archived(deployment, 5)
    services(monkeypatch, *running, ailing=ailing)
    with pytest.raises(NotReadyError, match=cause):
        wait_for_archive(deployment, user_events, END_MS)
    assert wait_for_archive(deployment, user_events, None) in ("Kafka does not run", "behind Kafka; the next run reads the rest")


def test_an_archive_that_has_all_is_not_waited_for(deployment: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    archived(deployment, 7)
    assert wait_for_archive(deployment, user_events, END_MS).startswith("caught up with Kafka")
    services(monkeypatch, "kafka")
    assert wait_for_archive(deployment, user_events, END_MS).startswith("caught up with Kafka")


def test_a_batch_with_a_declared_end_is_recorded_before_it_reads_the_archive(
    deployment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(deployment, 7)
    ends = iter(({0: 5}, {0: 8}))
    monkeypatch.setattr(catch_up, "end_offsets", lambda *_: next(ends))
    monkeypatch.setattr(catch_up, "WAIT_SECONDS", 0)
    with pytest.raises(NotReadyError, match="1 of the messages sent"):  # also those that came before the record
        wait_for_archive(deployment, user_events, END_MS)
    assert recorded(open_store(deployment), user_events.name) == BatchRead(END_MS, {0: 5})


def test_a_batch_that_derives_its_end_is_recorded_with_the_end_of_the_events_from_files(deployment: Settings) -> None:
    archived(deployment, 5)
    assert wait_for_archive(deployment, user_events, None) == "behind Kafka; the next run reads the rest"
    assert recorded(open_store(deployment), user_events.name) is None, "nothing but the stream's watermark ends this batch"
    assert wait_for_archive(deployment, user_events, None, END_MS) == "behind Kafka; the next run reads the rest"
    assert recorded(open_store(deployment), user_events.name) == BatchRead(END_MS, {0: 5}), "what the archive lacks will be late"
    archived(deployment, 7)
    assert wait_for_archive(deployment, user_events, None, END_MS).startswith("caught up with Kafka")
    assert recorded(open_store(deployment), user_events.name) == BatchRead(END_MS, {0: 7})


@pytest.mark.parametrize(("job", "records"), [(features_job(user_events), True), (QUALITY_JOB, False)])
def test_the_batch_after_a_load_has_the_stream_count_what_arrives_later_before_its_end(
    spark: SparkSession, lake: Settings, deployment: Settings, tmp_path: Path, job: str, records: bool
) -> None:
    settings = lake.model_copy(update={"redis_url": deployment.redis_url})
    event = {"event_id": "1", "user_id": 1, "session_id": "s", "event_type": "VIEW", "event_timestamp": rfc3339(END_MS)}
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps(event))
    load_events(spark, settings, user_events, file)
    archived(settings, 7)
    batch = Deployment(project, settings)
    defs = dg.Definitions(
        assets=[events_asset(batch, user_events)],
        jobs=[dg.define_asset_job(job, dg.AssetSelection.assets(events_key(user_events)), executor_def=dg.in_process_executor)],
        resources={"spark": batch.spark_resource, "batch_end": BatchEnd.configure_at_launch()},
    )
    day = utc_day(END_MS).isoformat()
    with dg.instance_for_test() as instance:
        assert defs.resolve_job_def(job).execute_in_process(instance=instance, tags={RANGE_START: day, RANGE_END: day}).success
    expected = BatchRead(END_MS + 1, {0: 7}) if records else None
    assert recorded(open_store(settings), user_events.name) == expected


def test_a_speed_layer_elsewhere_is_waited_for_while_it_writes_progress(
    deployment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    services(monkeypatch, "kafka")
    archived(deployment, 5, silent_ms=0)
    with pytest.raises(NotReadyError, match="2 of the messages sent"):
        wait_for_archive(deployment, user_events, END_MS)


def test_where_no_stream_was_read_the_files_are_enough(deployment: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    services(monkeypatch)
    assert wait_for_archive(deployment, user_events, END_MS) == "Kafka does not run"
    archived(deployment, 0)
    assert wait_for_archive(deployment, user_events, END_MS) == "Kafka does not run"
    services(monkeypatch, "kafka")
    assert wait_for_archive(deployment, user_events, END_MS).startswith("the speed layer does not run")
    services(monkeypatch, "kafka", "speed")
    monkeypatch.setattr(catch_up, "end_offsets", lambda *_: {0: 0})
    assert wait_for_archive(deployment, user_events, END_MS) == "Kafka has no messages"


def test_without_tiles_of_messages_in_kafka_a_published_view_is_marked_until_the_stream_has_read_them(
    deployment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = open_store(deployment)
    monkeypatch.setattr(catch_up, "topic_id", lambda *_: "topic")
    services(monkeypatch)
    wait_for_tiles(deployment, project, user_features)
    services(monkeypatch, "kafka")
    monkeypatch.setattr(catch_up, "held", lambda *_: {0: Held(7, 7, None)})
    wait_for_tiles(deployment, project, user_features)
    assert online.read(user_features, [1]).complete_since_ms == ALWAYS_MS, "there is nothing to read"
    monkeypatch.setattr(catch_up, "held", lambda *_: {0: Held(0, 7, END_MS)})
    wait_for_tiles(deployment, project, user_features)
    assert online.read(user_features, [1]).complete_since_ms == NEVER_MS
    stream = open_stream(online, user_features, "topic", {0: Held(0, 7, END_MS)}, {}, [], END_MS, 0)
    assert not stream.tiles.whole
    assert stream.follow(online, {"offsets": {"0": 7}}, None) is None
    assert online.read(user_features, [1]).complete_since_ms == ALWAYS_MS
    wait_for_tiles(deployment, project, user_features)
    assert online.tiles(user_features.name)[version_of(user_features.fingerprint)] == stream.tiles, "what the stream says stays"
