"""The watchdog: whether what the online store would be rebuilt from is still there, and whether the store keeps what it was given.

Reads the retention of each source's topic, the batch_end that is published, the policy of the store's servers, and the settings. After a loss of the
store the batch view is published again, and the stream is read again from batch_end on: what Kafka no longer holds by then is lacking.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from features.project import Project
from infra.embedded.health import ailment
from infra.kafka import Kept, kept_messages
from infra.settings import Settings
from monitoring.freshness import Severity
from store.protocol import Store
from store.server import reached_store


@dataclass(frozen=True)
class Guard:
    """A condition that the rebuilding of the store, or the exactness of its answers, stands on.

    Attributes:
        key: What it is about, as an alert's key.
        holds: Whether it does.
        message: What was found, in a sentence.
        cure: What to do where it does not hold.
    """

    key: str
    holds: bool
    message: str
    cure: str
    severity: Severity = Severity.HIGH


def guards(settings: Settings, project: Project, now_ms: int | None = None) -> list[Guard]:
    """All conditions that can be looked at now; those on Kafka only while it answers.

    Raises:
        ServiceError: The online store does not answer.
    """
    store = reached_store(settings)
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    on_store = [
        eviction_guard(store.evicting_policies()),
        expiry_guard(settings.tile_ttl_seconds * 1_000, max(group.buffer_ms for group in project.groups)),
    ]
    return [*on_store, *_retention_guards(settings, project, store, now_ms)]


def eviction_guard(policies: Iterable[str]) -> Guard:
    """The store drops no entity when its memory is full: an answer without it would be wrong and not say so."""
    evicting = ", ".join(sorted(policies))
    return Guard(
        "eviction:store", not evicting, f"The online store drops keys when its memory is full ({evicting})." if evicting else "The online store drops nothing.",
        "Set its maxmemory-policy to noeviction.",
    )  # fmt: skip


def expiry_guard(ttl_ms: int, buffer_ms: int) -> Guard:
    """A speed tile lives as long as an answer may need it: until the buffer behind batch_end is over."""
    return Guard(
        "expiry:tiles", ttl_ms >= buffer_ms, f"Speed tiles expire after {_span(ttl_ms)}; the buffer behind batch_end is {_span(buffer_ms)}.",
        f"Set BRAID_TILE_TTL_SECONDS to at least {-(-buffer_ms // 1_000)}.",
    )  # fmt: skip


def retention_guard(topic: str, held: Kept, batch_end_ms: int, now_ms: int) -> Guard:
    """The topic keeps every message since batch_end.

    What was replayed has times before its arrival: while nothing has been deleted yet, nothing that is needed is older than the first message.
    """
    needed_ms = max(batch_end_ms, held.since_ms or batch_end_ms) if held.whole else batch_end_ms
    age_ms = max(0, now_ms - needed_ms)
    message = f"The topic {topic} keeps messages for {'ever' if held.retention_ms is None else _span(held.retention_ms)}; those of the last {_span(age_ms)} are needed."
    if held.compacted:
        message = f"The topic {topic} is compacted: of an entity's messages it keeps only the last."
    return Guard(
        f"retention:{topic}", not held.compacted and (held.retention_ms is None or age_ms <= held.retention_ms), message,
        "Run `braid backfill`, and set the topic's retention.ms beyond the time between two batches and its cleanup.policy to delete.",
    )  # fmt: skip


def _retention_guards(settings: Settings, project: Project, store: Store, now_ms: int) -> Iterator[Guard]:
    if ailment(settings, "kafka"):
        return
    for source in project.sources:
        published = [store.published(group.name) for group in project.groups_of(source)]
        ends_ms = [view.batch_end_ms for view in published if view]
        if ends_ms and len(ends_ms) == len(published):
            yield retention_guard(source.topic, kept_messages(settings, source.topic), min(ends_ms), now_ms)


def _span(ms: int) -> str:
    return str(timedelta(seconds=ms // 1_000))
