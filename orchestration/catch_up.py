"""What a batch waits for.

The archive, before it is read, has taken what Kafka holds: the batch then sees what the stream accepted. A new version of a group is
published when the stream has caught up in it.
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
    """Waits until the archive holds everything that is in Kafka now, and says in words how that went."""
    # Asked first, because a consumer looks for a broker that is not there for half a minute.
    offsets = {} if not runs(settings, "kafka") or ailment(settings, "kafka") else end_offsets(settings, source.topic)
    if not any(offsets.values()):
        return "nothing in Kafka, or it does not run"
    if not open_store(settings).progress():
        return "the speed layer does not run; taken as it is"
    started = time.monotonic()
    try:
        wait_archived(settings, source, offsets, WAIT_SECONDS)
    except ServiceError:
        return f"behind Kafka after {WAIT_SECONDS} s; taken as it is, the rest heals with the next run"
    return f"caught up with Kafka in {time.monotonic() - started:.1f} s"


def wait_for_tiles(settings: Settings, project: Project, group: FeatureGroup) -> None:
    """Waits, where this version of the group is not served yet, until the stream has made its tiles from all that Kafka holds.

    So what is published is whole from the first answer on: also into a store that has lost what it held.

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
            raise ServiceError("The speed layer runs and has not said how far it is.", "See its log.")
        time.sleep(0.5)
    streamed = entry.get("version")
    if streamed != group.fingerprint:
        raise NotReadyError(
            f"The speed layer streams version {streamed} of {group.name}, not {group.fingerprint}.",
            "Run `braid up --detach`: what runs then loads the declaration.",
        )
    wait_visible(settings, project.groups_of(group.source), end_offsets(settings, group.source.topic), VERSION_SECONDS)
    # A store that has just lost its content may still be told of offsets whose tiles it has no more.
    while not ((tiles := store.tiles(group.name).get(version_of(group.fingerprint))) and tiles.whole):
        if time.monotonic() > deadline:
            raise ServiceError("The speed layer has not read the whole stream again.", "See its log.")
        time.sleep(0.5)
