"""Kappa's counterpart of a batch: new histories of groups, which the speed layer makes from the lake (`speed.histories`).

Reads and writes the streams of tiles in the online store: a new token is the request for new histories.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from features.declaration import FeatureGroup
from features.history import HISTORY_FORMAT
from infra.errors import NotReadyError, ServiceError
from infra.settings import Settings
from speed.completeness import new_token
from store.keys import version_of
from store.protocol import Published, Store, Tiles
from store.server import open_store

#: The longest time until the histories are made and the stream has caught up.
_SECONDS = 3_600
_POLL_SECONDS = 0.5


def rebuild(settings: Settings, groups: Sequence[FeatureGroup]) -> dict[str, Published]:
    """Requests new histories of groups from the speed layer, and waits until the histories are served.

    If the histories of a group are already being made, such as after a change of the declaration, the function only waits for them.

    Args:
        settings: The settings of the deployment.
        groups: The declarations of the groups.

    Returns:
        Group → its published metadata.

    Raises:
        NotReadyError: The speed layer runs with another declaration.
        ServiceError: The speed layer takes longer than an hour.
    """
    store = open_store(settings)
    asked_for: dict[str, str] = {}
    for group in groups:
        streamed = store.progress().get(f"online:{group.name}", {}).get("version", group.fingerprint)
        if streamed != group.fingerprint:
            raise NotReadyError(
                f"The speed layer streams version {streamed} of {group.name}, not {group.fingerprint}.",
                "Run `braid up --detach`, which restarts the speed layer with the declaration.",
            )
        known = _stream_of(store, group)
        if known is not None and known.whole:
            asked_for[group.name] = new_token()
            store.set_tiles(group, Tiles(asked_for[group.name], whole=False, topic_id=known.topic_id, history=HISTORY_FORMAT))
    deadline = time.monotonic() + _SECONDS
    for group in groups:
        while (published := _rebuilt(store, group, asked_for.values())) is None:
            if time.monotonic() > deadline:
                raise ServiceError(f"The speed layer has not made the histories of {group.name} yet.", "See the log speed.log.")
            time.sleep(_POLL_SECONDS)
    return {group.name: published for group in groups if (published := store.published(group.name))}


def _rebuilt(store: Store, group: FeatureGroup, asked_for: Iterable[str]) -> Published | None:
    """Returns the published metadata of a group; None until its new stream has caught up and is served.

    Args:
        store: The online store.
        group: The declaration of the group.
        asked_for: The tokens of the requested streams. The speed layer replaces such a token when it restarts its stream.
    """
    stream, published = _stream_of(store, group), store.published(group.name)
    if stream is None or not stream.whole or stream.token in asked_for or published is None:
        return None
    return published if published.is_stream(group, stream) else None


def _stream_of(store: Store, group: FeatureGroup) -> Tiles | None:
    return store.tiles(group.name).get(version_of(group.fingerprint))
