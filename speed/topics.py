"""Notices that a topic was made anew, which means deleted and created again.

The messages of the new topic begin at offset 0, so a running query would pass over the first of them. The watch asks Kafka for the ids of the topics
every few seconds, in its own thread, so that a broker that does not answer delays nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from infra.errors import ServiceError
from infra.kafka import topic_id
from infra.settings import Settings

_LOOK_SECONDS = 2.0


class TopicWatch:
    """Watches the identities of topics.

    Args:
        settings: The settings with the address of Kafka.
        topics: The names of existing topics.

    Attributes:
        ids: Topic → its identity when the watch was made. The name of the archive's checkpoint contains it.
        anew: A topic that was made anew since then; None if there is none.
    """

    def __init__(self, settings: Settings, topics: Iterable[str]) -> None:
        self.ids = {topic: topic_id(settings, topic) or "none" for topic in topics}
        self.anew: str | None = None
        self._settings = settings

    def start(self, ended: threading.Event) -> None:
        """Starts the thread, which watches until `ended` is set or a topic was made anew."""
        threading.Thread(target=self._watch, args=(ended,), name="topics", daemon=True).start()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS) and not self.anew:
            self.anew = next((topic for topic, known in self.ids.items() if is_anew(self._settings, topic, known)), None)


def is_anew(settings: Settings, topic: str, known: str) -> bool:
    """Returns whether the identity of a topic differs from `known`. False if the topic is deleted, or if Kafka does not answer."""
    try:
        return (topic_id(settings, topic) or known) != known
    except ServiceError:
        return False
