"""The Kafka topics that the declared sources need."""

from features.definitions import GROUPS


def topics() -> dict[str, int]:
    """Topic → number of partitions: four for events, one for dead letters."""
    sources = {group.source.name: group.source for group in GROUPS.values()}.values()
    return {name: n for source in sources for name, n in ((source.topic, 4), (source.dlq_topic, 1))}
