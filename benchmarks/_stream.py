"""A stream of events beside a measurement: purchases, views and items in carts of users, as messages of the topic of the shop."""

from __future__ import annotations

import json
import random
import threading
import time
from datetime import UTC, datetime

from kafka import KafkaProducer

from examples.shop.definitions import user_events


def send_events(producer: KafkaProducer, rate: float, over: threading.Event, users: int = 5_000) -> None:
    """Sends so many events per second until `over` is set; items follow Zipf's law."""
    rng, began, sent = random.Random(1), time.monotonic(), 0
    while not over.is_set():
        due = int((time.monotonic() - began) * rate)
        while sent < due:
            sent += 1
            item = min(int(rng.paretovariate(1.0)), 10_000)
            producer.send(user_events.topic, key=str(user := rng.randrange(users)).encode(), value=event(user, f"i{item}"))
        over.wait(0.01)


def event(user: int, item: str) -> bytes:
    """A message about this moment."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {
        "event_id": f"{random.getrandbits(64):x}", "user_id": user, "session_id": f"s{random.randrange(8)}", "item_id": item,
        "event_type": random.choice(("PURCHASE", "VIEW", "CART")), "amount": random.randrange(10_000) / 100, "event_timestamp": now,
    }  # fmt: skip
    return json.dumps(fields).encode()
