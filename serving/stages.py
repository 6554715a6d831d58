"""The stages of a request: how much of its time each part of the work took.

store        reading the online store, with the wait for the round trip before
decode       from the store's replies to views and tiles
merge        from views and tiles to features
model        from features to the prediction, of one entity with its provenance
encode       the rows of the answer and its JSON

A stage begins where the one before it ended, and the first where the request arrived, so no time is between them.
"""

from __future__ import annotations

import time


class Stages:
    """The time of one request.

    Attributes:
        started: The value of `time.perf_counter` when the request arrived.
        seconds: Stage → seconds, of those that have ended.
    """

    __slots__ = ("_since", "seconds", "started")

    def __init__(self) -> None:
        self.started = self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @property
    def whole_seconds(self) -> float:
        """From the arrival to the end of the last stage."""
        return self._since - self.started

    def read(self, decode_seconds: float) -> None:
        """Ends reading the store, of which so many seconds were decoding."""
        self.end("store")
        self.seconds["store"] -= decode_seconds
        self.seconds["decode"] = decode_seconds

    def end(self, stage: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self.seconds[stage], self._since = now - self._since, now
