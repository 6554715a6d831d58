"""The speed layer in the graph: an endless stream is not run by Dagster but observed."""

import dagster as dg

from orchestration.deployment import GROUP, OWNERS, SOURCE

user_events_topic = dg.AssetSpec(
    "user_events_topic", group_name="speed", kinds={"kafka"}, owners=OWNERS,
    description=f"The Kafka topic `{SOURCE.topic}`: every event as it happens, keyed by user.",
)  # fmt: skip
raw_events = dg.AssetSpec(
    "raw_events", deps=[user_events_topic], group_name="speed", kinds={"spark", "delta"}, owners=OWNERS,
    description="Every message as it came, also what was too late for the stream. What does not fit the contract is on the dead-letter topic.",
)  # fmt: skip
speed_tiles = dg.AssetSpec(
    "speed_tiles", deps=[user_events_topic], group_name="speed", kinds={"spark", "redis"}, owners=OWNERS,
    description=f"The partials of every open tile of {GROUP.name}, in the online store within a second of the event.",
)  # fmt: skip
user_features_realtime = dg.AssetSpec(
    "user_features_realtime", deps=[user_events_topic], group_name="speed", kinds={"spark", "delta"}, owners=OWNERS,
    description="The speed layer's own history: each tile when the watermark closed it.",
)  # fmt: skip

assets = [user_events_topic, raw_events, speed_tiles, user_features_realtime]
