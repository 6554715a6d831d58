"""The assets of the speed layer. Dagster does not run the endless stream; `orchestration.sensors.observation` observes it."""

import dagster as dg

from features.declaration import FeatureGroup
from features.sources import EventSource
from orchestration.columns import archive_columns, closed_tile_columns, schema
from orchestration.deployment import OWNERS, Deployment
from orchestration.names import archive_key, realtime_key, speed_tiles_key, topic_key


def topic(source: EventSource) -> dg.AssetSpec:
    """Returns the asset of a source's topic."""
    return dg.AssetSpec(
        topic_key(source), group_name="speed", kinds={"kafka"}, owners=OWNERS, metadata=schema(*((c.name, "JSON", "") for c in source.columns)),
        description=f"The Kafka topic `{source.topic}`: every event as it happens, keyed by {source.key}.",
    )  # fmt: skip


def raw_archive(source: EventSource) -> dg.AssetSpec:
    """Returns the asset of a source's raw archive."""
    return dg.AssetSpec(
        archive_key(source), deps=[topic_key(source)], group_name="speed", kinds={"spark", "delta"}, owners=OWNERS, metadata=schema(*archive_columns()),
        description=f"Every message unchanged, also events that were too late for the stream. Messages that do not fit the contract are on `{source.dlq_topic}`.",
    )  # fmt: skip


def speed_tiles(group: FeatureGroup) -> dg.AssetSpec:
    """Returns the asset of a group's open tiles."""
    return dg.AssetSpec(
        speed_tiles_key(group), deps=[topic_key(group.source)], group_name="speed", kinds={"spark", "redis"}, owners=OWNERS,
        metadata=schema(("speed:{version}", "BINARY", "the packed tiles; their values are absolute, so a second write changes nothing")),
        description=f"The partials of every open tile of {group.name}, in the online store within a second of the event.",
    )  # fmt: skip


def realtime(group: FeatureGroup) -> dg.AssetSpec:
    """Returns the asset of a group's closed tiles."""
    return dg.AssetSpec(
        realtime_key(group), deps=[topic_key(group.source)], group_name="speed", kinds={"spark", "delta"}, owners=OWNERS,
        metadata=schema(*closed_tile_columns(group)),
        description="The history of the speed layer: each tile as it was when the watermark closed it.",
    )  # fmt: skip


def assets_of(deployment: Deployment) -> list[dg.AssetSpec]:
    """Returns the speed assets of all sources and groups."""
    project = deployment.project
    of_sources = [make(source) for source in project.sources for make in (topic, raw_archive)]
    return [*of_sources, *(make(group) for group in project.groups for make in (speed_tiles, realtime))]
