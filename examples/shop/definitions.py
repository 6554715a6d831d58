"""The declarations of the shop: its source, feature groups and model. A new feature is one new line in this file only."""

from __future__ import annotations

from braid import (
    Column,
    ColumnType,
    EventSource,
    FeatureGroup,
    Model,
    Outcome,
    Project,
    approx_distinct,
    count,
    distinct,
    mean,
    since_last,
    top_k,
    total,
)

user_events = EventSource(
    name="user_events",
    topic="user_events",
    table="events",
    key="user_id",
    columns=(
        Column("event_id", required=True),
        Column("user_id", ColumnType.INT64, required=True),
        Column("session_id", required=True),
        Column("event_type", required=True),
        Column("amount", ColumnType.DECIMAL),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
        Column("item_id"),
        Column("properties", ColumnType.MAP),
    ),
)

user_features = FeatureGroup(
    name="user_features",
    entity="user_id",
    source=user_events,
    description="What a user did in the last hour, week and month.",
    features=(
        count("events_last_hour", window="1h", description="Events of any type."),
        total("spend_last_hour", of="amount", where="event_type = 'PURCHASE'", window="1h", description="Money spent."),
        distinct("sessions_last_hour", of="session_id", window="1h", description="Different sessions."),
        count("purchase_count_7d", where="event_type = 'PURCHASE'", window="7d", description="Purchases."),
        mean(
            "avg_purchase_30d", of="amount", where="event_type = 'PURCHASE'", window="30d", description="Mean amount of a purchase."
        ),
        since_last("days_since_last", where="event_type = 'PURCHASE'", unit="days", description="Days since the latest purchase."),
    ),
)

item_features = FeatureGroup(
    name="item_features",
    entity="item_id",
    source=user_events,
    description="What happened to an item in the last hour and day.",
    features=(
        count("views_1h", where="event_type = 'VIEW'", window="1h", description="Views."),
        count("views_1d", where="event_type = 'VIEW'", window="1d", description="Views."),
        count("purchases_1h", where="event_type = 'PURCHASE'", window="1h", tail="exact", description="Purchases."),
        count("purchases_1d", where="event_type = 'PURCHASE'", window="1d", description="Purchases."),
        approx_distinct("buyers_1d", of="user_id", where="event_type = 'PURCHASE'", window="1d", description="Different buyers."),
        top_k("top_buyers_1d", of="user_id", k=3, where="event_type = 'PURCHASE'", window="1d", description="Who bought it most."),
    ),
)

repurchase = Model(name="repurchase", inputs=(user_features,), outcome=Outcome(where="event_type = 'PURCHASE'", within="7d"))

project = Project(sources=(user_events,), groups=(user_features, item_features), models=(repurchase,))
