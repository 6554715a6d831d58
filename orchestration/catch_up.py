"""What a batch waits for.

The archive, before it is read, has taken what Kafka holds: the batch then sees what the stream accepted. A new version of a group is
published when the stream has caught up in it.
"""

import json
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
from store.clients import PROGRESS_KEY, meta_key, store

WAIT_SECONDS = 120
VERSION_SECONDS = 900


def wait_for_archive(settings: Settings, source: EventSource) -> str:
    """Waits until the archive holds everything that is in Kafka now, and says in words how that went."""
    # Asked first, because a consumer looks for a broker that is not there for half a minute.
    offsets = {} if not runs(settings, "kafka") or ailment(settings, "kafka") else end_offsets(settings, source.topic)
    if not any(offsets.values()):
        return "nothing in Kafka, or it does not run"
    if not store(settings).exists(PROGRESS_KEY):
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
    client = store(settings)
    if client.hget(meta_key(group.name), "fingerprint") == group.fingerprint.encode() or not runs(settings, "speed"):
        return
    deadline = time.monotonic() + VERSION_SECONDS
    while not (raw := client.hget(PROGRESS_KEY, f"online:{group.name}")):
        if time.monotonic() > deadline:
            raise ServiceError("The speed layer runs and has not said how far it is.", "See its log.")
        time.sleep(0.5)
    streamed = json.loads(raw).get("version")
    if streamed != group.fingerprint:
        raise NotReadyError(
            f"The speed layer streams version {streamed} of {group.name}, not {group.fingerprint}.",
            "Run `braid up --detach`: what runs then loads the declaration.",
        )
    wait_visible(settings, project.groups_of(group.source), end_offsets(settings, group.source.topic), VERSION_SECONDS)
