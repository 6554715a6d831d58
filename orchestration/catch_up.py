"""The waits of a batch for the stream. Reads the speed layer's progress in the online store, and Kafka's offsets.

Before a batch reads the archive, it waits until the archive has all messages of Kafka, so that the batch has every event that the stream
has accepted. Otherwise an event before batch_end could be missing in the view and exist only in a speed tile before batch_end, which no answer reads.
batch_end is recorded before (`speed.batch_reads`), so that the stream counts events that arrive later as late. If the run derives batch_end, the time of
the last event from files is recorded, because the watermark judges what lies before the newest events of the stream.

A new version of a group is published when the stream has made the tiles of this version.
"""

import time
from typing import Any

from features.declaration import FeatureGroup
from features.instants import now_ms
from features.project import Project
from features.sources import EventSource
from infra.embedded.health import ailment
from infra.errors import NotReadyError, ServiceError
from infra.kafka import end_offsets, held, topic_id
from infra.settings import Settings
from orchestration.running import runs
from speed.batch_reads import BatchRead, record
from speed.completeness import new_token
from speed.progress import SILENT_SECONDS
from speed.visible import wait_archived, wait_visible
from store.keys import version_of
from store.protocol import Store, Tiles
from store.server import open_store

WAIT_SECONDS = 120
VERSION_SECONDS = 900


def wait_for_archive(settings: Settings, source: EventSource, batch_end_ms: int | None, at_least_ms: int | None = None) -> str:
    """Waits until the archive has all messages that are in Kafka now. Returns the result in words.

    Args:
        settings: The settings of the deployment.
        source: The source of the archive.
        batch_end_ms: The requested batch_end. None if the run derives batch_end from the archive; the archive may then be behind Kafka.
        at_least_ms: A time before which the derived batch_end cannot lie, because the table has later events from files. None if there are none, or if
            the run builds no view.

    Raises:
        NotReadyError: Events before the requested batch_end may be missing, because the archive is behind Kafka, or because Kafka does not answer
            although the archive has had messages.
    """
    asked = batch_end_ms is not None
    started = time.monotonic()
    # The health check comes first, because a consumer waits half a minute for a broker that does not run.
    while not runs(settings, "kafka") or ailment(settings, "kafka"):
        if not asked or not _was_read(settings, source):
            return "Kafka does not run"
        if not runs(settings, "kafka") or time.monotonic() - started > WAIT_SECONDS:
            raise _behind(source, "Kafka does not run, or does not answer.")
        time.sleep(1)
    offsets = end_offsets(settings, source.topic)
    end_ms = None if settings.kappa else at_least_ms if batch_end_ms is None else batch_end_ms
    if end_ms is not None:
        # Without a declared end the run may read an archive that is behind.
        record(open_store(settings), source.name, BatchRead(end_ms, offsets if asked else _archived(settings, source)))
        # The stream may have read what arrived before the record.
        offsets = end_offsets(settings, source.topic)
    if not any(offsets.values()):
        return "Kafka has no messages"
    running = _streams(settings, source)
    if not running and not _was_read(settings, source):
        return "the speed layer does not run; the batch reads the archive without waiting"
    try:
        wait_archived(settings, source, offsets, WAIT_SECONDS if running else 0)
    except ServiceError as error:
        if asked:
            raise _behind(source, error.cause if running else "The speed layer does not run.") from None
        return "behind Kafka; the next run reads the rest"
    if end_ms is not None and not asked:
        record(open_store(settings), source.name, BatchRead(end_ms, offsets))
    return f"caught up with Kafka in {time.monotonic() - started:.1f} s"


def _was_read(settings: Settings, source: EventSource) -> bool:
    """Returns whether the archive has ever had messages; False if all events come from files."""
    entry = _archive_progress(settings, source)
    return entry is not None and any(entry["offsets"].values())


def _streams(settings: Settings, source: EventSource) -> bool:
    """Returns whether the speed layer runs, under this home's supervisor or elsewhere. Its recent progress shows that it runs elsewhere."""
    if runs(settings, "speed"):
        return True
    entry = _archive_progress(settings, source)
    return entry is not None and now_ms() - entry["written_at_ms"] < SILENT_SECONDS * 1_000


def _archived(settings: Settings, source: EventSource) -> dict[int, int]:
    """Partition → the offset before which the archive has every message; empty before it has run."""
    entry = _archive_progress(settings, source) or {"offsets": {}}
    return {int(partition): offset for partition, offset in entry["offsets"].items()}


def _archive_progress(settings: Settings, source: EventSource) -> dict[str, Any] | None:
    return open_store(settings).progress().get(f"archive:{source.name}")


def _behind(source: EventSource, cause: str) -> NotReadyError:
    return NotReadyError(
        f"The archive of {source.name} may lack events before batch_end. {cause}",
        "Run `braid up --detach`, and the batch again; or `braid backfill` without --to, which ends before what may be missing.",
    )


def wait_for_tiles(settings: Settings, project: Project, group: FeatureGroup) -> None:
    """Waits until the stream has made the tiles of the declared version from all messages of Kafka, if this version is not published yet.

    So the published version is complete from its first answer on, also in a store that has lost its content. If the speed layer does not run, the
    function does not wait. If the store then has no stream of tiles of the version, answers are marked as degraded until the speed layer has read
    Kafka's messages.

    Args:
        settings: The settings of the deployment.
        project: The project.
        group: The declaration of the group.

    Raises:
        NotReadyError: The speed layer runs with another declaration.
        ServiceError: The speed layer takes too long, or Kafka does not answer.
    """
    store = open_store(settings)
    published = store.published(group.name)
    if not runs(settings, "speed"):
        _mark_unread(settings, store, group)
        return
    if published and published.fingerprint == group.fingerprint:
        return
    deadline = time.monotonic() + VERSION_SECONDS
    while not (entry := store.progress().get(f"online:{group.name}")):
        if time.monotonic() > deadline:
            raise ServiceError("The speed layer has written no progress yet.", "See the log speed.log.")
        time.sleep(0.5)
    streamed = entry.get("version")
    if streamed != group.fingerprint:
        raise NotReadyError(
            f"The speed layer streams version {streamed} of {group.name}, not {group.fingerprint}.",
            "Run `braid up --detach`, which restarts the speed layer with the declaration.",
        )
    wait_visible(settings, project.groups_of(group.source), end_offsets(settings, group.source.topic), VERSION_SECONDS)
    # Right after a loss of the store, the progress may contain offsets of messages whose tiles are lost.
    while not ((tiles := store.tiles(group.name).get(version_of(group.fingerprint))) and tiles.whole):
        if time.monotonic() > deadline:
            raise ServiceError("The speed layer has not read the whole stream again.", "See the log speed.log.")
        time.sleep(0.5)


def _mark_unread(settings: Settings, store: Store, group: FeatureGroup) -> None:
    """Records an incomplete stream of tiles for a version without a stream, if Kafka holds messages. The speed layer continues this stream."""
    if store.tiles(group.name).get(version_of(group.fingerprint)) or not runs(settings, "kafka") or ailment(settings, "kafka"):
        return
    topic = group.source.topic
    if any(partition.earliest < partition.end for partition in held(settings, topic).values()):
        store.set_tiles(group, Tiles(new_token(), whole=False, topic_id=topic_id(settings, topic) or ""))
