"""The day at which Dagster's daily partitions begin: the earliest day of all loaded events. `batch.load` writes this day to the home."""

from __future__ import annotations

import json
from datetime import date, timedelta

from features.instants import now_ms, utc_day
from infra.settings import Settings


def first_day(settings: Settings) -> date:
    """Returns the earliest day of all loaded events; before the first load, the day a year ago."""
    path = settings.home / "first_day.json"
    return date.fromisoformat(json.loads(path.read_text())) if path.exists() else utc_day(now_ms()) - timedelta(days=365)
