"""Whether a topic was made anew: its messages begin at offset 0 again, and a query that goes on would pass over the first of them.

Asks Kafka for the topics' ids every few seconds, in a thread of its own: a broker that does not answer holds up nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from infra.errors import ServiceError
from infra.kafka import topic_id
from infra.settings import Settings

_LOOK_SECONDS = 2.0


class TopicWatch:
    """The identities of topics, from now on.

    Args:
        settings: Where Kafka is.
        topics: Names of topics that exist.

    Attributes:
        ids: Topic → its identity at the start, as a part of a checkpoint's name.
        anew: A topic that has another identity by now, or None.
    """

    def __init__(self, settings: Settings, topics: Iterable[str]) -> None:
        self.ids = {topic: topic_id(settings, topic) or "none" for topic in topics}
        self.anew: str | None = None
        self._settings = settings

    def start(self, ended: threading.Event) -> None:
        """Watches until `ended` is set."""
        threading.Thread(target=self._watch, args=(ended,), name="topics", daemon=True).start()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS) and not self.anew:
            self.anew = next((topic for topic, known in self.ids.items() if is_anew(self._settings, topic, known)), None)


def is_anew(settings: Settings, topic: str, known: str) -> bool:
    """Whether a topic has another identity than the known one; a topic that is deleted, or not to be asked for, has none."""
    try:
        return (topic_id(settings, topic) or known) != known
    except ServiceError:
        return False
