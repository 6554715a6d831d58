"""The served log: a record of each logged answer, sent to the topic `served_features`.

Experiments, live quality and the consistency check read the records. The log is asynchronous: a request only puts a function that makes the
record into a bounded queue, and a thread makes and sends the records. If the broker does not answer, records are lost and counted, and no request
is delayed.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from features.declaration import FeatureGroup
from infra.kafka import SERVED_TOPIC, client_options
from infra.settings import Settings
from serving.answer import Served, degraded_features
from serving.encoding import Provenance
from serving.variants import place

#: The largest number of records in the queue.
BOUND = 10_000
#: The size, in bytes, at which a message of JSON lines is sent. kafka-python's cost is per message, so many records share one message. A line is
#: shorter than this size, so a message stays below Kafka's limit of one megabyte.
_MESSAGE_BYTES = 500_000
_POLL_SECONDS = 0.5
_log = logging.getLogger("serving")

Record = dict[str, Any]


def served_record(
    group: FeatureGroup,
    entity: int | str,
    served: Served,
    provenance: Provenance,
    q_ms: int,
    served_at_ms: int,
    more: Mapping[str, Any] | None = None,
    request_id: str = "",
) -> Record:
    """Returns the record of one entity's features in an answer; `monitoring.served` describes the fields.

    Args:
        group: The declaration of the group.
        entity: The id of the entity.
        served: The features.
        provenance: The provenance in the answer.
        q_ms: The time of the request, in ms since 1970.
        served_at_ms: The time of the answer, in ms since 1970.
        more: The additional fields of a prediction (`serving.answer_log`).
        request_id: The id of the request.
    """
    merged = served.merged
    return {
        "served_id": uuid.uuid4().hex,
        "request_id": request_id,
        "group": group.name,
        "fingerprint": group.fingerprint,
        "entity": str(entity),
        "q_ms": q_ms,
        "served_at_ms": served_at_ms,
        "features_at_ms": served.at_ms,
        "features": dict(zip(group.feature_names, merged.values, strict=True)),
        "batch_end_ms": merged.batch_end_ms,
        "newest_event_ms": merged.newest_event_ms,
        "tiles_merged": merged.tiles_merged,
        "degraded": provenance.degraded_reasons,
        # Not those of the provenance, which also names what a model lacks: the features of the record are as they were served.
        "degraded_features": degraded_features(group.feature_names, served),
        **(more or {}),
    }


class ServedLog:
    """The queue of records and the thread that sends them.

    Args:
        settings: The settings that name Kafka, the experiment, and the share of entities that are logged without an experiment.
        on_lost: Called with the number of records that were lost.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[int], None]) -> None:
        self._settings, self._on_lost = settings, on_lost
        self._waiting: deque[Callable[[], Record]] = deque()
        self._in_message = 0  # the records of the message that is being sent
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="served log", daemon=True)
        if settings.served_share or settings.experiment:
            self._thread.start()

    @property
    def on(self) -> bool:
        """Whether any answer of `/features` is logged."""
        return bool(self._settings.served_share)

    def wants(self, entity: int | str) -> bool:
        """Returns whether the entity is in the logged share. The result depends only on the id, so all or none of an entity's answers are logged."""
        share = self._settings.served_share
        return bool(share) and place("served", entity) < share

    def add(self, record: Callable[[], Record]) -> None:
        """Puts a record into the queue. The thread calls the function `record` when it sends the record."""
        if len(self._waiting) >= BOUND:
            self._on_lost(1)
        else:
            self._waiting.append(record)

    def close(self) -> None:
        """Sends the records in the queue, within five seconds, and ends the thread. The records that are not sent by then are lost, and counted."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5)
        # A thread that still waits for the broker ends with the process.
        left, self._in_message = len(self._waiting) + self._in_message, 0
        self._waiting.clear()
        self._count_lost(left)

    def _follow(self) -> None:
        from kafka import KafkaProducer

        producer = None
        while not self._ended.wait(_POLL_SECONDS) or self._waiting:
            try:
                if producer is None:
                    # Compression reduces the bytes whose checksum kafka-python computes, which is slow without the package crc32c.
                    producer = KafkaProducer(
                        **client_options(self._settings), linger_ms=50, max_block_ms=2_000, compression_type="gzip"
                    )
                while self._waiting:
                    self._send(producer)
            except Exception as error:  # noqa: BLE001  # whatever the broker or the library does, the log must continue
                _log.warning("the served log waits for Kafka (%s)", type(error).__name__)
                if self._ended.wait(1):
                    break
        if producer is not None:
            producer.close(timeout=3)

    def _send(self, producer: Any) -> None:
        """Sends one message of records, and waits until the broker has accepted or refused the message."""
        lines, taken, size = list[bytes](), 0, 0
        while self._waiting and size < _MESSAGE_BYTES:
            record, taken = self._waiting.popleft(), taken + 1
            with suppress(Exception):  # a record that cannot be made must not stop the other records
                line = msgspec.json.encode(record())
                if len(line) < _MESSAGE_BYTES:
                    lines.append(line)
                    size += len(line)
        sent, self._in_message = False, taken
        try:
            if lines:
                future = producer.send(SERVED_TOPIC, b"\n".join(lines))
                producer.flush()
                sent = future.succeeded()
        finally:
            if self._in_message:  # else `close` has counted them
                self._in_message = 0
                self._count_lost(taken - (len(lines) if sent else 0))

    def _count_lost(self, records: int) -> None:
        if records:
            _log.warning("%d records of the served log are lost", records)
            self._on_lost(records)
