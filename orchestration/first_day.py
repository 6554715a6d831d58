"""Where the daily partitions begin: the earliest day of all events, kept in the home by `batch.load`."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

from infra.settings import Settings


def first_day(settings: Settings) -> date:
    """The earliest day of all loads; a year ago where nothing was loaded."""
    path = settings.home / "first_day.json"
    return date.fromisoformat(json.loads(path.read_text())) if path.exists() else datetime.now(UTC).date() - timedelta(days=365)
