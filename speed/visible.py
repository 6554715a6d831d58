"""Waiting for the stream: whether what was sent is in the online store, or in the archive. Reads the speed layer's progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from features.declaration import FeatureGroup
from features.sources import EventSource
from infra.errors import ServiceError
from infra.kafka import topic_id
from infra.settings import Settings
from store.server import open_store

#: Told how many of the awaited messages are done, and how many are awaited.
OnProgress = Callable[[int, int], None]
_POLL_SECONDS = 0.05


def wait_visible(settings: Settings, groups: Iterable[FeatureGroup], end_offsets: Mapping[int, int],
                 timeout_seconds: float | None = None, on_progress: OnProgress | None = None) -> None:  # fmt: skip
    """Returns when every event before `end_offsets` is in the online store, for every one of the groups.

    Args:
        settings: Where the online store is.
        groups: All of one source.
        end_offsets: Per partition the first offset that is not waited for.
        timeout_seconds: How long to wait; None for as long as it takes.
        on_progress: Told of the progress.

    Raises:
        ServiceError: It took too long.
    """
    groups = list(groups)
    if not groups:
        return
    names = [f"online:{group.name}" for group in groups]
    _wait(settings, groups[0].source.topic, names, end_offsets, timeout_seconds, on_progress, "in the online store")


def wait_archived(
    settings: Settings, source: EventSource, end_offsets: Mapping[int, int], timeout_seconds: float | None = None
) -> None:
    """Returns when every event before `end_offsets` is in the archive. Arguments and errors as `wait_visible`."""
    _wait(settings, source.topic, [f"archive:{source.name}"], end_offsets, timeout_seconds, None, "in the archive")


def _wait(settings: Settings, topic: str, names: list[str], end_offsets: Mapping[int, int], timeout_seconds: float | None,
          on_progress: OnProgress | None, where: str) -> None:  # fmt: skip
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    store, remaining_at_first = open_store(settings), None
    # Until the speed layer has noticed that a topic was made anew, its progress is that of the topic that had the name before.
    identity = topic_id(settings, topic) if any(end_offsets.values()) else None
    while True:
        entries = store.progress()
        remaining = max(_remaining(entries.get(name), end_offsets, identity) for name in names)
        if not remaining:
            break
        remaining_at_first = remaining_at_first or remaining
        if on_progress:
            on_progress(max(0, remaining_at_first - remaining), remaining_at_first)
        if deadline is not None and time.monotonic() > deadline:
            raise ServiceError(
                f"After {timeout_seconds:g} seconds, {remaining} of the messages sent are not yet {where}.",
                "See the log of the speed layer, and its lag in `braid status`.",
            )
        time.sleep(_POLL_SECONDS)
    if on_progress and remaining_at_first:
        on_progress(remaining_at_first, remaining_at_first)


def _remaining(entry: Mapping[str, Any] | None, end_offsets: Mapping[int, int], identity: str | None) -> int:
    """How many messages a query has still to take of the topic with this identity; None where it is not known."""
    is_of_topic = entry is not None and identity in (None, entry.get("topic", identity))
    offsets = entry["offsets"] if entry and is_of_topic else {}
    return sum(max(0, end - offsets.get(str(partition), 0)) for partition, end in end_offsets.items())
