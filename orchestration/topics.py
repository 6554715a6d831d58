"""The Kafka topics of a project: events and dead letters of each source, and the served log."""

from features.project import Project
from infra.kafka import SERVED_TOPIC


def topics(project: Project) -> dict[str, int]:
    """Returns topic → number of partitions: four for events, one for dead letters, one for the served log."""
    of_sources = {name: n for source in project.sources for name, n in ((source.topic, 4), (source.dlq_topic, 1))}
    return {**of_sources, SERVED_TOPIC: 1}
