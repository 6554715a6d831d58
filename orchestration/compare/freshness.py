"""Streams the live part at a steady rate, and measures how long after an event was sent the online store knows it.

A probe is an event of the live part itself: it is known when a read of its entity, as a request makes it, gives a tile with an event of its
time or later. In the first half of the stream the engine's job may still start, and Java compiles what it runs. So the second half is sent when the probes
of the first are known, and only the probes of the second half count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batch.files import open_events
from features.declaration import FeatureGroup
from features.project import Project
from features.sources import ColumnType, EventSource
from infra.settings import Settings
from orchestration.compare.events import Events
from speed.replay import replay, times_ms
from speed.visible import wait_visible
from store.server import open_store

#: So often a part of the events is sent, and one event of the part is a probe.
_PARTS_PER_SECOND = 5
_POLL_SECONDS = 0.005
#: How long after the last event a probe is waited for.
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Probe:
    """An event of which the store will know: the entity, and the time of the event."""

    group: FeatureGroup
    entity_id: int | str
    ts_ms: int


class Watch:
    """Probes that were sent, until the online store knows them.

    Args:
        settings: The settings of the deployment.

    Attributes:
        waited_ms: For each known probe that counts the time since it was sent, in milliseconds.
        pending: The probes that the store does not know; for those that count, when each was sent.
    """

    def __init__(self, settings: Settings) -> None:
        self.waited_ms: list[float] = []
        self.pending: dict[Probe, float | None] = {}
        self._store = open_store(settings)
        self._sent = threading.Event()

    def add(self, probe: Probe, counts: bool) -> None:
        """A probe that has just been sent."""
        self.pending.setdefault(probe, time.monotonic() if counts else None)

    def all_sent(self) -> None:
        """No other probe will be sent."""
        self._sent.set()

    def await_known(self) -> float:
        """Returns when the probes are known, or have been waited for long enough: the seconds that it took."""
        began = time.monotonic()
        while self.pending and time.monotonic() - began < _PATIENCE_SECONDS:
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def run(self) -> None:
        """Looks for the probes until all are sent and known, or none has become known for a long time."""
        latest = time.monotonic()
        while not self._sent.is_set() or (self.pending and time.monotonic() - latest < _PATIENCE_SECONDS):
            if self.look() or not self._sent.is_set():
                latest = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def look(self) -> int:
        """Looks once for the probes that are pending, and returns how many have become known."""
        known = self._known(list(self.pending))
        now = time.monotonic()
        for probe in known:
            sent = self.pending.pop(probe)
            if sent is not None:
                self.waited_ms.append((now - sent) * 1_000)
        return len(known)

    def _known(self, probes: list[Probe]) -> list[Probe]:
        known = []
        for group in {probe.group.name: probe.group for probe in probes}.values():
            mine = [probe for probe in probes if probe.group.name == group.name]
            parts = self._store.read(group, [probe.entity_id for probe in mine]).parts
            known += [
                probe for probe, part in zip(mine, parts, strict=True) if any(tile.last_ms >= probe.ts_ms for tile in part.tiles)
            ]
        return known


def stream(settings: Settings, project: Project, events: Events, rate: float, see: Callable[[], None]) -> list[float]:
    """Sends the live part, and returns when the online store has all of it: how long each probe that counts waited, in milliseconds.

    Args:
        settings: The settings of the deployment.
        project: Its project.
        events: The events.
        rate: Events per second, of all sources.
        see: Called about once a second.

    Raises:
        ServiceError: Kafka does not take the events, or the speed layer does not read them.
    """
    total = sum(events.streamed.values())
    watch = Watch(settings)

    def send(source: EventSource) -> Mapping[int, int]:
        count = events.streamed[source.name]
        mine = rate * count / total
        with open_events(events.live(source), source) as file:
            batches = _paced(
                file.batches(max(1, round(mine / _PARTS_PER_SECOND))), mine, count // 2, project.groups_of(source), watch, see
            )
            return replay(settings, source, batches).end_offsets

    sources = [source for source in project.sources if events.streamed[source.name]]
    with ThreadPoolExecutor(len(sources) + 1) as executor:
        watching = executor.submit(watch.run)
        try:
            ends = list(executor.map(send, sources))
        finally:
            watch.all_sent()
        watching.result()
    for source, end_offsets in zip(sources, ends, strict=True):
        wait_visible(settings, project.groups_of(source), end_offsets, timeout_seconds=_PATIENCE_SECONDS)
    return watch.waited_ms


def percentiles(waited_ms: list[float]) -> dict[str, int]:
    """The median, the 99th percentile and the largest of the waits, in milliseconds; empty without a wait."""
    if not waited_ms:
        return {}
    p50, p99 = np.percentile(waited_ms, [50, 99])
    return {"freshness_p50_ms": round(p50), "freshness_p99_ms": round(p99), "freshness_max_ms": round(max(waited_ms))}


def _paced(
    batches: Iterator[pa.RecordBatch],
    rate: float,
    warm_up: int,
    groups: tuple[FeatureGroup, ...],
    watch: Watch,
    see: Callable[[], None],
) -> Iterator[pa.RecordBatch]:
    """The batches, each when it is due. When the next one is asked for, the last event of a batch has been sent, and is a probe.

    The batches after the first `warm_up` events wait until the probes are known.
    """
    began, sent, seen, warm = time.monotonic(), 0, 0.0, False
    for batch in batches:
        if not warm and sent >= warm_up:
            warm = True
            began += watch.await_known()
        time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        sent += batch.num_rows
        yield batch
        for group in groups:
            if (probe := probe_of(group, batch)) is not None:
                watch.add(probe, counts=warm)
        if time.monotonic() - seen > 1:
            seen = time.monotonic()
            see()


def probe_of(group: FeatureGroup, batch: pa.RecordBatch) -> Probe | None:
    """The last event of a batch of raw columns as a probe of a group; None where it has no entity of the group."""
    last = batch.slice(batch.num_rows - 1)
    [ts_ms] = times_ms(last.column(group.source.time))
    values = [last.column(column.name)[0].as_py() for column in group.entity_columns]
    if ts_ms is None or not all(values):
        return None
    typed = [
        int(value) if column.type is ColumnType.INT64 else value for value, column in zip(values, group.entity_columns, strict=True)
    ]
    return Probe(group, group.id_of(typed), ts_ms)
