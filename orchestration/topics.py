"""The Kafka topics of a deployment: those of the declared sources, and what serving has answered."""

from features.definitions import GROUPS
from infra.kafka import SERVED_TOPIC


def topics() -> dict[str, int]:
    """Topic → number of partitions: four for events, one for dead letters and for what was served."""
    sources = {group.source.name: group.source for group in GROUPS.values()}.values()
    found = {name: n for source in sources for name, n in ((source.topic, 4), (source.dlq_topic, 1))}
    return {**found, SERVED_TOPIC: 1}
