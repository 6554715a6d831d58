"""Waits until the sent events are in the online store or in the archive. Reads the progress of the speed layer."""

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

#: Is called with the number of awaited messages that are done, and the number of all awaited messages.
OnProgress = Callable[[int, int], None]
_POLL_SECONDS = 0.05


def wait_visible(settings: Settings, groups: Iterable[FeatureGroup], end_offsets: Mapping[int, int],
                 timeout_seconds: float | None = None, on_progress: OnProgress | None = None) -> None:  # fmt: skip
    """Waits until every event before `end_offsets` is in the online store, for each of the groups.

    Args:
        settings: The settings with the URL of the online store.
        groups: The groups, all of one source.
        end_offsets: Partition → the first offset that is not awaited.
        timeout_seconds: How long to wait; None to wait without a limit.
        on_progress: Is called with the progress.

    Raises:
        ServiceError: The wait took longer than `timeout_seconds`.
    """
    groups = list(groups)
    if not groups:
        return
    names = [f"online:{group.name}" for group in groups]
    _wait(settings, groups[0].source.topic, names, end_offsets, timeout_seconds, on_progress, "in the online store")


def wait_archived(
    settings: Settings, source: EventSource, end_offsets: Mapping[int, int], timeout_seconds: float | None = None
) -> None:
    """Waits until every event before `end_offsets` is in the archive. Arguments and errors are those of `wait_visible`."""
    _wait(settings, source.topic, [f"archive:{source.name}"], end_offsets, timeout_seconds, None, "in the archive")


def _wait(settings: Settings, topic: str, names: list[str], end_offsets: Mapping[int, int], timeout_seconds: float | None,
          on_progress: OnProgress | None, where: str) -> None:  # fmt: skip
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    store, remaining_at_first = open_store(settings), None
    # Until the speed layer notices that a topic was made anew, its progress is that of the former topic of the same name.
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
    """Returns how many of the awaited messages a query has not taken yet.

    Args:
        entry: The progress of the query; None if there is none.
        end_offsets: Partition → the first offset that is not awaited.
        identity: The identity of the topic. The progress of a topic with another identity does not count. None if the identity is not known.
    """
    is_of_topic = entry is not None and identity in (None, entry.get("topic", identity))
    offsets = entry["offsets"] if entry and is_of_topic else {}
    return sum(max(0, end - offsets.get(str(partition), 0)) for partition, end in end_offsets.items())
