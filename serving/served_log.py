"""What was served → the topic `served_features`: for experiments, live quality, and proofs of what was served.

Bounded and asynchronous: an answer puts into a queue what a record is made of, and is done. A broker that does not answer costs
records, which are counted, never an answer's time.
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
from serving.answer import Served
from serving.contract import Provenance
from serving.variants import place

#: Records that wait for the broker at most.
BOUND = 10_000
#: Records are sent many in one message, as JSON lines of so many bytes: the producer is written in Python, and takes as long for a
#: message as for many lines. With one line more it stays below Kafka's megabyte.
_MESSAGE_BYTES = 500_000
_POLL_SECONDS = 0.5
_log = logging.getLogger("serving")

Record = dict[str, Any]


def served_record(
    group: FeatureGroup, entity: int | str, served: Served, provenance: Provenance, q_ms: int, served_at_ms: int,
    exposure: Mapping[str, Any] | None = None,
) -> Record:  # fmt: skip
    """One entity's features as they were served; `monitoring.served` says what each field means.

    Args:
        group: The declaration.
        entity: Whose features.
        served: The features.
        provenance: What the answer said of them.
        q_ms: The time that was asked about.
        served_at_ms: The time of the answer.
        exposure: For a prediction: experiment, variant, model, model_version, prediction, shadows.
    """
    merged = served.merged
    return {
        "served_id": uuid.uuid4().hex, "group": group.name, "fingerprint": group.fingerprint, "entity": str(entity),
        "q_ms": q_ms, "served_at_ms": served_at_ms, "features_at_ms": served.at_ms,
        "features": dict(zip(group.feature_names, merged.values, strict=True)),
        "batch_end_ms": merged.batch_end_ms, "newest_event_ms": merged.newest_event_ms, "tiles_merged": merged.tiles_merged,
        "degraded": provenance.degraded_reasons, **(exposure or {}),
    }  # fmt: skip


class ServedLog:
    """Sends records in a thread of its own.

    Args:
        settings: Where Kafka is, and the share of the entities that are logged without being in an experiment.
        on_lost: Told how many records were lost.
    """

    def __init__(self, settings: Settings, on_lost: Callable[[int], None]) -> None:
        self._settings, self._on_lost = settings, on_lost
        self._waiting: deque[Callable[[], Record]] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="served log", daemon=True)
        if settings.served_share or settings.experiment:
            self._thread.start()

    def wants(self, entity: int | str) -> bool:
        """Whether answers about the entity are of the logged share: the same ones each time, so that each is logged whole or not."""
        share = self._settings.served_share
        return bool(share) and place("served", entity) < share

    def add(self, record: Callable[[], Record]) -> None:
        """Takes what makes a record, in the log's own thread."""
        if len(self._waiting) >= BOUND:
            self._on_lost(1)
        else:
            self._waiting.append(record)

    def close(self) -> None:
        """Sends what waits, for a few seconds at most."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _follow(self) -> None:
        from kafka import KafkaProducer

        producer = None
        while not self._ended.wait(_POLL_SECONDS) or self._waiting:
            try:
                if producer is None:
                    # Its checksums are computed in Python, over what is compressed.
                    producer = KafkaProducer(
                        **client_options(self._settings), linger_ms=50, max_block_ms=2_000, compression_type="gzip"
                    )  # fmt: skip
                while self._waiting:
                    self._send(producer)
            except Exception as error:  # noqa: BLE001  # whatever the broker or the library does, the log goes on
                _log.warning("the served log waits for Kafka (%s)", type(error).__name__)
                if self._ended.wait(1):
                    break
        if producer is not None:
            producer.close(timeout=3)

    def _send(self, producer: Any) -> None:
        """Sends a message of records, and waits until the broker has taken or refused it."""
        lines, taken, size = list[bytes](), 0, 0
        while self._waiting and size < _MESSAGE_BYTES:
            record, taken = self._waiting.popleft(), taken + 1
            with suppress(Exception):  # whatever is wrong with one record, the others must go
                line = msgspec.json.encode(record())
                if len(line) < _MESSAGE_BYTES:
                    lines.append(line)
                    size += len(line)
        sent = False
        try:
            if lines:
                future = producer.send(SERVED_TOPIC, b"\n".join(lines))
                producer.flush()
                sent = future.succeeded()
        finally:
            if lost := taken - (len(lines) if sent else 0):
                _log.warning("%d records of the served log are lost", lost)
                self._on_lost(lost)
