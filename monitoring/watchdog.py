"""The watchdog: whether the online store could be rebuilt after a loss, whether it keeps its data, and whether the stream receives its messages.

Reads the retention and the open transactions of each source's topic, the published batch_end, the eviction policies of the store's servers, and
the settings. After a loss of the store, the batch view is published again and the stream reads Kafka again from batch_end on. So Kafka must still
hold the messages since batch_end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from features import instants
from features.project import Project
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from infra.embedded.health import ailment
from infra.errors import ServiceError
from infra.kafka import Retention, open_transaction_ms, retention_of
from infra.settings import Settings
from monitoring.freshness import Severity
from store.protocol import Store
from store.server import reached_store

#: The longest age of an open transaction: the default `transaction.timeout.ms` of Kafka's producers.
LONGEST_TRANSACTION_MS = MINUTE_MS


@dataclass(frozen=True)
class Guard:
    """A condition for rebuilding the store, or for the exactness of its answers.

    Attributes:
        key: The key of its alert.
        holds: Whether the condition holds.
        message: The state, in a sentence.
        cure: What to do if the condition does not hold.
        severity: The severity of its alert.
    """

    key: str
    holds: bool
    message: str
    cure: str
    severity: Severity = Severity.HIGH


def guards(settings: Settings, project: Project) -> list[Guard]:
    """Returns all conditions that can be checked now. Conditions on Kafka are left out while Kafka does not answer.

    A condition about which Kafka gives no answer, such as one on a topic that does not exist, does not hold.

    Raises:
        ServiceError: The online store does not answer.
    """
    store = reached_store(settings)
    on_store = [eviction_guard(store.evicting_policies())]
    if ailment(settings, "kafka"):
        return on_store
    current_ms = instants.now_ms()
    on_kafka = [_transaction_guard(settings, source.topic, current_ms) for source in project.sources]
    if not settings.kappa:  # in Kappa, messages that Kafka has deleted are still in the archive
        on_kafka += _retention_guards(settings, project, store, current_ms)
    return [*on_store, *on_kafka]


def guard_alerts(settings: Settings, project: Project) -> Iterator[str]:
    """Yields the keys of all alerts that conditions can have, also of those that cannot be checked now."""
    yield "eviction:store"
    for source in project.sources:
        yield f"transactions:{source.topic}"
        if not settings.kappa:
            yield f"retention:{source.topic}"


def eviction_guard(policies: Iterable[str]) -> Guard:
    """Returns the guard that holds if the store deletes no key when its memory is full.

    An answer computed without a deleted key would be wrong, but not marked as degraded.

    Args:
        policies: The policies of the store's servers that delete keys.
    """
    evicting = ", ".join(sorted(policies))
    return Guard(
        "eviction:store", not evicting, f"The online store drops keys when its memory is full ({evicting})." if evicting else "The online store drops nothing.",
        "Set its maxmemory-policy to noeviction.",
    )  # fmt: skip


def transaction_guard(topic: str, open_ms: int | None, now_ms: int) -> Guard:
    """Returns the guard that holds if no transaction of a topic has been open for longer than `LONGEST_TRANSACTION_MS`.

    Consumers do not receive the messages behind an open transaction, and the lag does not count these messages.

    Args:
        topic: The topic.
        open_ms: The arrival time of the first message of the oldest open transaction; None without an open transaction.
        now_ms: The wall clock.
    """
    age_ms = 0 if open_ms is None else max(0, now_ms - open_ms)
    holds = age_ms <= LONGEST_TRANSACTION_MS
    return Guard(
        f"transactions:{topic}", holds,
        f"No transaction on the topic {topic} is open for longer than {_span(LONGEST_TRANSACTION_MS)}." if holds
        else f"A transaction on the topic {topic} has been open for {_span(age_ms)}; the stream does not get the messages behind it.",
        "Let its producer commit or abort it. Otherwise Kafka aborts it after the producer's transaction.timeout.ms.",
    )  # fmt: skip


def retention_guard(topic: str, retention: Retention, batch_end_ms: int, now_ms: int) -> Guard:
    """Returns the guard that holds if a topic keeps every message since batch_end.

    A replayed event arrives long after its own time. So while the topic still has all its messages, the age that must be kept is counted from
    the first message, if that message arrived after batch_end. If the topic keeps a limited number of bytes, each partition of which messages were
    deleted must begin before batch_end.

    Args:
        topic: The topic.
        retention: The topic's retention, and whether the topic still has all its messages.
        batch_end_ms: The earliest published batch_end of the source's groups.
        now_ms: The wall clock.
    """
    needed_ms = max(batch_end_ms, retention.since_ms or batch_end_ms) if retention.whole else batch_end_ms
    age_ms = max(0, now_ms - needed_ms)
    message = f"The topic {topic} keeps messages for {'ever' if retention.retention_ms is None else _span(retention.retention_ms)}; those of the last {_span(age_ms)} are needed."
    held = retention.retention_ms is None or age_ms <= retention.retention_ms
    if held and retention.sized_since_ms is not None and retention.sized_since_ms > batch_end_ms:
        held = False
        message = f"The topic {topic} keeps only so many bytes: messages before the last {_span(now_ms - retention.sized_since_ms)} may be gone; those of the last {_span(age_ms)} are needed."
    if retention.compacted:
        message = f"The topic {topic} is compacted: of an entity's messages it keeps only the last."
    return Guard(
        f"retention:{topic}", held and not retention.compacted, message,
        "Run `braid backfill`, and set the topic's retention.ms and retention.bytes beyond the time between two batches and its cleanup.policy to delete.",
    )  # fmt: skip


def _retention_guards(settings: Settings, project: Project, store: Store, now_ms: int) -> Iterator[Guard]:
    for source in project.sources:
        published = [store.published(group.name) for group in project.groups_of(source)]
        ends_ms = [view.batch_end_ms for view in published if view]
        if ends_ms and len(ends_ms) == len(published):
            yield _retention_guard(settings, source.topic, min(ends_ms), now_ms)


def _retention_guard(settings: Settings, topic: str, batch_end_ms: int, now_ms: int) -> Guard:
    return _asked(f"retention:{topic}", lambda: retention_guard(topic, retention_of(settings, topic), batch_end_ms, now_ms))


def _transaction_guard(settings: Settings, topic: str, now_ms: int) -> Guard:
    return _asked(f"transactions:{topic}", lambda: transaction_guard(topic, open_transaction_ms(settings, topic), now_ms))


def _asked(key: str, guard: Callable[[], Guard]) -> Guard:
    """Returns a condition on Kafka. If Kafka does not answer about it, it does not hold, and the other conditions are still checked."""
    try:
        return guard()
    except ServiceError as error:
        return Guard(key, False, error.cause, error.cure)


def _span(ms: int) -> str:
    """Returns a duration as text, in the largest unit of which it has at least two."""
    units = {"days": DAY_MS, "hours": HOUR_MS, "minutes": MINUTE_MS, "seconds": SECOND_MS}
    return next((f"{ms // unit_ms} {name}" for name, unit_ms in units.items() if ms >= 2 * unit_ms), f"{ms / SECOND_MS:g} s")
