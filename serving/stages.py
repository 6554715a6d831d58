"""Measures the time of the stages of a request.

store        reading the online store, including the wait for the previous round trip
decode       decoding the store's replies to views and tiles
merge        computing features from views and tiles
model        computing the prediction from features; for one entity, also the provenance
encode       making the rows of the answer and encoding them

Each stage begins when the previous stage ends. The first stage begins when the decoded request reaches its endpoint, so the stages cover all time
from then on.
"""

from __future__ import annotations

import time


class Stages:
    """The stages of one request. The first stage begins with the construction.

    Attributes:
        started: The value of `time.perf_counter` at the construction.
        seconds: Stage → its time in seconds, for the stages that have ended.
    """

    __slots__ = ("_since", "seconds", "started")

    def __init__(self) -> None:
        self.started = self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @property
    def whole_seconds(self) -> float:
        """The time in seconds from the construction to the end of the last stage."""
        return self._since - self.started

    def read(self, decode_seconds: float) -> None:
        """Ends the stages `store` and `decode`.

        Args:
            decode_seconds: The part of the time that is the stage `decode`, in seconds.
        """
        self.end("store")
        self.seconds["store"] -= decode_seconds
        self.seconds["decode"] = decode_seconds

    def end(self, stage: str) -> None:
        """Ends a stage, and begins the next one."""
        now = time.perf_counter()
        self.seconds[stage], self._since = now - self._since, now
