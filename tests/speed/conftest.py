"""A deployment of Kafka and Valkey for the speed layer, and the process itself, to be started, killed and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded import services
from infra.settings import Settings
from tests.declarations import user_events

from .process import Speed


@pytest.fixture(scope="session")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Kafka and Valkey of these tests, with triggers that do not make them wait."""
    home: Path = tmp_path_factory.mktemp("speed")
    settings = Settings.load(home).model_copy(update={"archive_seconds": 1, "offline_seconds": 3, "speed_memory": "768m"})
    services.up(settings, {user_events.topic: 4, user_events.dlq_topic: 1}, only={"kafka", "valkey"})
    yield settings
    services.down(settings)


@pytest.fixture(scope="session")
def speed(streaming: Settings) -> Iterator[Speed]:
    """The speed layer, not yet started."""
    process = Speed(streaming)
    yield process
    process.stop()
