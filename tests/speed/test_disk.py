"""A lake whose disk is full, and checkpoints of which the newest files are cut off: the failure is told, and the way on is clean."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch.events import ingest_archive
from features.merge import merge
from features.windows import HOUR_MS
from infra.embedded import services
from infra.settings import Settings
from speed.replay import replay, wait_archived, wait_visible
from tests.declarations import GROUPS, user_events, user_features

from .aloud import batch_of, brute_force, stored_tiles
from .process import Speed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.long  # five starts of the speed layer

USERS = 20
FIRST_USER = 1_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, _port_claims: None) -> Iterator[Settings]:
    """Kafka and Valkey, and an empty lake on a disk of 32 MiB."""
    home = tmp_path_factory.mktemp("small")
    disk = home / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"making a small disk needs the right to mount: {mounted.stderr.decode().strip()}")
    settings = Settings.load(home).model_copy(
        update={"lake_uri": str(disk), "archive_seconds": 1, "offline_seconds": 3, "speed_memory": "768m"}
    )
    try:
        services.up(settings, {user_events.topic: 4, user_events.dlq_topic: 1}, only={"kafka", "valkey"})
        yield settings
    finally:
        services.down(settings)
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="module")
def layer(small: Settings) -> Iterator[Speed]:
    process = Speed(small)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def sent() -> list[dict[str, Any]]:
    """What has been sent so far, to be appended to."""
    return []


def send(settings: Settings, sent: list[dict[str, Any]], n: int = 400) -> dict[int, int]:
    rng, now_ms = random.Random(len(sent)), time.time_ns() // 1_000_000
    events = [
        {"event_id": f"disk-{len(sent) + index}", "user_id": str(FIRST_USER + rng.randrange(USERS)), "session_id": f"s{rng.randrange(5)}",
         "event_type": rng.choice(("PURCHASE", "VIEW")), "amount": f"{rng.randrange(10_000) / 100:.2f}", "ts_ms": now_ms - n + index}
        for index in range(n)
    ]  # fmt: skip
    sent += events
    return replay(settings, user_events, [batch_of(events)]).end_offsets


def differences(settings: Settings, sent: list[dict[str, Any]]) -> list[Any]:
    q_ms, found = sent[-1]["ts_ms"] + 1, []
    for user in range(FIRST_USER, FIRST_USER + USERS):
        mine = [event for event in sent if event["user_id"] == str(user)]
        tiles = list(stored_tiles(settings, user).values())
        for at in (q_ms, q_ms - HOUR_MS):
            right, got = brute_force(mine, at), merge(user_features, None, tiles, at).values
            found += [(user, at, a, b) for a, b in zip(right, got, strict=True) if a != b]
    return found


def said_since(layer: Speed, begin: int) -> str:
    return layer.log.read_text()[begin:]


def test_a_full_disk_under_the_lake_is_told_and_nothing_is_lost(
    small: Settings, layer: Speed, sent: list[dict[str, Any]], spark: SparkSession
) -> None:
    layer.start()
    wait_archived(small, user_events, send(small, sent))
    begin, filler = layer.log.stat().st_size, Path(small.lake_uri) / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(65_536)):
                pass
        except OSError:
            pass
    ends = send(small, sent)
    assert layer.wait() == 1
    assert "No space left on device" in said_since(layer, begin)
    filler.unlink()
    layer.start()
    wait_visible(small, GROUPS.values(), ends)
    wait_archived(small, user_events, ends)
    assert differences(small, sent) == []
    rows = spark.read.format("delta").load(small.table("raw_events")).where(f"topic = '{user_events.topic}'")
    assert rows.count() == rows.select("partition", "offset").distinct().count() == sum(ends.values())


def test_checkpoints_whose_newest_files_are_cut_off_are_named_and_can_be_deleted(
    small: Settings, layer: Speed, sent: list[dict[str, Any]], spark: SparkSession
) -> None:
    layer.stop()
    cut = {"archive_user_events": "offsets", "online_user_events": "offsets"}
    for name, kind in cut.items():
        [checkpoint] = Path(small.checkpoint(name)).parent.glob(f"{name}*")
        newest = max((one for one in (checkpoint / kind).rglob("[0-9]*") if one.is_file()), key=lambda one: one.stat().st_mtime_ns)
        os.truncate(newest, newest.stat().st_size // 2)
    ends, deleted = send(small, sent), set()
    while len(deleted) < len(cut):
        begin = layer.log.stat().st_size
        layer.launch()
        assert layer.wait() == 1
        [checkpoint] = re.findall(r"Its checkpoint is (\S+)\.$", said_since(layer, begin), re.MULTILINE)
        deleted.add(next(name for name in cut if Path(checkpoint).name.startswith(name)))
        shutil.rmtree(checkpoint)
    layer.start()
    wait_visible(small, GROUPS.values(), ends)
    wait_archived(small, user_events, ends)
    assert differences(small, sent) == []
    ingest_archive(spark, small, user_events)
    events = spark.read.format("delta").load(small.table(user_events.table)).where("event_id LIKE 'disk-%'")
    assert events.count() == events.select("event_id").distinct().count() == len(sent)
