"""The Kafka topics of a project: those of its sources, and what serving has answered."""

from features.project import Project
from infra.kafka import SERVED_TOPIC


def topics(project: Project) -> dict[str, int]:
    """Topic → number of partitions: four for events, one for dead letters and for what was served."""
    found = {name: n for source in project.sources for name, n in ((source.topic, 4), (source.dlq_topic, 1))}
    return {**found, SERVED_TOPIC: 1}
