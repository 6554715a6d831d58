"""Streams the live part at a steady rate, and measures the time from the sending of an event until the event is in the online store.

A probe is an event of the live part. A probe is visible when a read of its entity, by the same call as in a request, returns a tile with an event
of the probe's time or later. During the first half of the stream the engine's job may still be starting, and Java compiles its code. So the second
half is sent when the probes of the first half are visible, and only the probes of the second half count.
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

#: The number of parts in which the events of a second are sent. The last event of each part is a probe.
_PARTS_PER_SECOND = 5
_POLL_SECONDS = 0.005
#: The longest time that sent probes are waited for.
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Probe:
    """A sent event that will be visible in the store: its group, its entity, and its time in ms since 1970."""

    group: FeatureGroup
    entity_id: int | str
    ts_ms: int


class Watch:
    """The probes that were sent, and the times until they were visible in the online store.

    Args:
        settings: The settings of the deployment.

    Attributes:
        waited_ms: For each visible probe that counts, the time from its sending until it was visible, in milliseconds.
        pending: Probe that is not visible yet → the time of its sending, by the monotonic clock; None for a probe that does not count.
    """

    def __init__(self, settings: Settings) -> None:
        self.waited_ms: list[float] = []
        self.pending: dict[Probe, float | None] = {}
        self._store = open_store(settings)
        self._sent = threading.Event()

    def add(self, probe: Probe, counts: bool) -> None:
        """Adds a probe that has just been sent."""
        self.pending.setdefault(probe, time.monotonic() if counts else None)

    def all_sent(self) -> None:
        """Records that no further probe will be sent."""
        self._sent.set()

    def await_known(self) -> float:
        """Waits until all probes are visible, at most `_PATIENCE_SECONDS`. Returns the seconds of the wait."""
        began = time.monotonic()
        while self.pending and time.monotonic() - began < _PATIENCE_SECONDS:
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def run(self) -> None:
        """Looks for the probes until all are sent and visible, or until none has become visible for `_PATIENCE_SECONDS` after the last was sent."""
        latest = time.monotonic()
        while not self._sent.is_set() or (self.pending and time.monotonic() - latest < _PATIENCE_SECONDS):
            if self.look() or not self._sent.is_set():
                latest = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def look(self) -> int:
        """Looks once for the pending probes, and returns the number of probes that have become visible."""
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
    """Sends the live part, and waits until all of it is in the online store.

    Args:
        settings: The settings of the deployment.
        project: The project of the deployment.
        events: The events.
        rate: Events per second, of all sources together.
        see: Called about once a second.

    Returns:
        For each probe that counts, the time from its sending until it was visible, in milliseconds.

    Raises:
        ServiceError: Kafka does not accept the events, or the speed layer does not read them.
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
    """Returns the median, the 99th percentile and the maximum of waits, in milliseconds; empty if there are no waits."""
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
    """Yields each batch when it is due, and adds probes.

    When the consumer requests the next batch, it has sent the previous batch, whose last event then becomes a probe. The batches after the first
    `warm_up` events wait until the probes so far are visible; only the probes after that count.
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
    """Returns the last event of a batch of raw columns as a probe of a group; None if the event has no time or no entity of the group."""
    last = batch.slice(batch.num_rows - 1)
    [ts_ms] = times_ms(last.column(group.source.time))
    values = [last.column(column.name)[0].as_py() for column in group.entity_columns]
    if ts_ms is None or not all(values):
        return None
    typed = [
        int(value) if column.type is ColumnType.INT64 else value for value, column in zip(values, group.entity_columns, strict=True)
    ]
    return Probe(group, group.id_of(typed), ts_ms)
