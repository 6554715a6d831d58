"""A stream of events during a measurement: purchases, views and carts of users, as messages of the shop's topic.

The program sends events until it is terminated. Its arguments are the events per second and the number of users.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from kafka import KafkaProducer

from examples.shop.definitions import user_events
from infra.kafka import client_options
from infra.settings import Settings


@contextmanager
def streaming(settings: Settings, rate: float, users: int) -> Iterator[None]:
    """Runs a block while another process sends `rate` events per second. So the sending takes no CPU time from the measuring process."""
    command = [sys.executable, "-m", "benchmarks._stream", str(rate), str(users)]
    with subprocess.Popen(command, env={**os.environ, **settings.environment()}) as program:
        try:
            yield
            assert program.poll() is None, "the stream has ended"
        finally:
            program.terminate()


def send_events(producer: KafkaProducer, rate: float, over: threading.Event, users: int = 5_000) -> None:
    """Sends `rate` events per second until `over` is set. The items follow Zipf's law."""
    rng, began, sent = random.Random(1), time.monotonic(), 0
    while not over.is_set():
        due = int((time.monotonic() - began) * rate)
        while sent < due:
            sent += 1
            item = min(int(rng.paretovariate(1.0)), 10_000)
            producer.send(user_events.topic, key=str(user := rng.randrange(users)).encode(), value=event(user, f"i{item}"))
        over.wait(0.01)


def event(user: int, item: str) -> bytes:
    """Returns a message about an event of a user and an item at this moment."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {
        "event_id": f"{random.getrandbits(64):x}", "user_id": user, "session_id": f"s{random.randrange(8)}", "item_id": item,
        "event_type": random.choice(("PURCHASE", "VIEW", "CART")), "amount": random.randrange(10_000) / 100, "event_timestamp": now,
    }  # fmt: skip
    return json.dumps(fields).encode()


if __name__ == "__main__":
    send_events(KafkaProducer(**client_options(Settings.load())), float(sys.argv[1]), threading.Event(), int(sys.argv[2]))
