"""The waits of a batch for the stream.

Before a batch reads the archive, it waits until the archive has all messages of Kafka, so that the batch has every event that the stream
has accepted. A new version of a group is published when the stream has made its tiles.
"""

import time

from features.declaration import FeatureGroup
from features.project import Project
from features.sources import EventSource
from infra.embedded.health import ailment
from infra.errors import NotReadyError, ServiceError
from infra.kafka import end_offsets
from infra.settings import Settings
from orchestration.running import runs
from speed.visible import wait_archived, wait_visible
from store.keys import version_of
from store.server import open_store

WAIT_SECONDS = 120
VERSION_SECONDS = 900


def wait_for_archive(settings: Settings, source: EventSource) -> str:
    """Waits until the archive has all messages that are in Kafka now. Returns the result in words."""
    # The health check comes first, because a consumer waits half a minute for a broker that does not run.
    offsets = {} if not runs(settings, "kafka") or ailment(settings, "kafka") else end_offsets(settings, source.topic)
    if not any(offsets.values()):
        return "Kafka has no messages, or does not run"
    if not open_store(settings).progress():
        return "the speed layer does not run; the batch reads the archive without waiting"
    started = time.monotonic()
    try:
        wait_archived(settings, source, offsets, WAIT_SECONDS)
    except ServiceError:
        return f"behind Kafka after {WAIT_SECONDS} s; the next run reads the rest"
    return f"caught up with Kafka in {time.monotonic() - started:.1f} s"


def wait_for_tiles(settings: Settings, project: Project, group: FeatureGroup) -> None:
    """Waits, for a version that is not published yet, until the stream has made its tiles from all messages of Kafka.

    So the published version is complete from its first answer on, also in a store that has lost its content.

    Raises:
        NotReadyError: The speed layer runs with another declaration.
        ServiceError: It takes too long.
    """
    store = open_store(settings)
    published = store.published(group.name)
    if (published and published.fingerprint == group.fingerprint) or not runs(settings, "speed"):
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
    # Right after a loss of the store, the progress may name offsets whose tiles are lost.
    while not ((tiles := store.tiles(group.name).get(version_of(group.fingerprint))) and tiles.whole):
        if time.monotonic() > deadline:
            raise ServiceError("The speed layer has not read the whole stream again.", "See the log speed.log.")
        time.sleep(0.5)
