"""The speed layer in the graph: an endless stream is not run by Dagster but observed, by `orchestration.sensors.observation`."""

import dagster as dg

from features.declaration import FeatureGroup
from features.definitions import GROUPS
from orchestration.columns import archive_columns, closed_tile_columns, schema
from orchestration.deployment import OWNERS, SOURCE

topic = dg.AssetSpec(
    f"{SOURCE.name}_topic", group_name="speed", kinds={"kafka"}, owners=OWNERS, metadata=schema(*((c.name, "JSON", "") for c in SOURCE.columns)),
    description=f"The Kafka topic `{SOURCE.topic}`: every event as it happens, keyed by {SOURCE.key}.",
)  # fmt: skip
raw_events = dg.AssetSpec(
    "raw_events", deps=[topic], group_name="speed", kinds={"spark", "delta"}, owners=OWNERS, metadata=schema(*archive_columns()),
    description=f"Every message as it came, also what was too late for the stream. What does not fit the contract is on `{SOURCE.dlq_topic}`.",
)  # fmt: skip


def speed_tiles(group: FeatureGroup) -> dg.AssetSpec:
    """The group's open tiles."""
    return dg.AssetSpec(
        f"{group.name}_speed_tiles", deps=[topic], group_name="speed", kinds={"spark", "redis"}, owners=OWNERS,
        metadata=schema(("t:{version}:{tile start}", "BINARY", "the packed tile, absolute: writing it twice changes nothing")),
        description=f"The partials of every open tile of {group.name}, in the online store within a second of the event.",
    )  # fmt: skip


def realtime(group: FeatureGroup) -> dg.AssetSpec:
    """The group's closed tiles."""
    return dg.AssetSpec(
        f"{group.name}_realtime", deps=[topic], group_name="speed", kinds={"spark", "delta"}, owners=OWNERS,
        metadata=schema(*closed_tile_columns(group)),
        description="The speed layer's own history: each tile when the watermark closed it.",
    )  # fmt: skip


assets = [topic, raw_events, *(make(group) for group in GROUPS.values() for make in (speed_tiles, realtime))]
