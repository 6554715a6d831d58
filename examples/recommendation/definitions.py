"""The declarations of the recommendations: their source, feature groups and model. A new feature is one new line in this file only."""

from __future__ import annotations

from braid import (
    Column,
    ColumnType,
    EventSource,
    FeatureGroup,
    Model,
    Outcome,
    Project,
    RequestColumn,
    count,
    distinct,
    expression,
    since_last,
)

#: A view of an item by a user, a recommendation of an item to the user, or a click on a recommendation. `category` is the category of the item;
#: `popularity` is the score by which the candidates were chosen, from 0 to 1.
visits = EventSource(
    name="visits",
    topic="visits",
    table="visits",
    key="user_id",
    columns=(
        Column("event_id", required=True),
        Column("event_type", required=True),
        Column("shown_id"),
        Column("user_id", ColumnType.INT64, required=True),
        Column("item_id", required=True),
        Column("category", required=True),
        Column("popularity", ColumnType.DECIMAL, required=True),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)
VIEWED, SHOWN, CLICKED = "event_type = 'VIEW'", "event_type = 'SHOWN'", "event_type = 'CLICK'"

tastes = FeatureGroup(
    name="tastes",
    entity=("user_id", "category"),
    source=visits,
    description="What a user viewed and clicked in a category in the last minutes to 30 days.",
    features=(
        count("views_20m", where=VIEWED, window="20m", description="Views."),
        count("views_1d", where=VIEWED, window="1d", description="Views."),
        count("views_30d", where=VIEWED, window="30d", description="Views."),
        count("shown_30d", where=SHOWN, window="30d", description="Recommendations."),
        count("clicks_30d", where=CLICKED, window="30d", description="Clicks."),
        distinct("items_20m", of="item_id", where=VIEWED, window="20m", description="Different items viewed."),
        since_last(
            "hours_since_view", where=VIEWED, unit="hours", window="30d", default=720.0, description="Hours since the latest view."
        ),
    ),
)

users = FeatureGroup(
    name="users",
    entity="user_id",
    source=visits,
    description="How active a user was in the last minutes to 30 days.",
    features=(
        count("views_20m", where=VIEWED, window="20m", description="Views."),
        count("views_30d", where=VIEWED, window="30d", description="Views."),
        distinct("tastes_20m", of="category", where=VIEWED, window="20m", description="Different categories."),
    ),
)

items = FeatureGroup(
    name="items",
    entity="item_id",
    source=visits,
    description="How often an item was viewed, recommended and clicked in the last hours to two weeks.",
    features=(
        count("views_2h", where=VIEWED, window="2h", description="Views."),
        count("views_7d", where=VIEWED, window="7d", description="Views."),
        count("shown_2h", where=SHOWN, window="2h", description="Recommendations."),
        count("clicks_2h", where=CLICKED, window="2h", description="Clicks."),
        count("shown_10d", where=SHOWN, window="10d", description="Recommendations."),
        count("clicks_10d", where=CLICKED, window="10d", description="Clicks."),
    ),
)

#: Requested for the candidates of a list. The label is whether a click follows within 30 minutes.
recommendation = Model(
    name="recommendation",
    inputs=(users.on("user_id", prefix="user_"), tastes.on("user_id", "category"), items.on("item_id", prefix="item_")),
    request=(RequestColumn("popularity", ColumnType.DECIMAL, required=True),),
    derived=(
        expression("taste_share_20m", "views_20m / user_views_20m"),
        expression("taste_share_30d", "views_30d / user_views_30d"),
        expression("taste_rate_30d", "(clicks_30d + 1) / (shown_30d + 10)"),
        expression("item_rate_2h", "(item_clicks_2h + 1) / (item_shown_2h + 10)"),
        expression("item_rate_10d", "(item_clicks_10d + 1) / (item_shown_10d + 10)"),
    ),
    outcome=Outcome(at=SHOWN, where=CLICKED, join="shown_id", within="30m"),
    budget_ms=100,
)

project = Project(
    sources=(visits,),
    groups=(users, tastes, items),
    models=(recommendation,),
    assets="examples.recommendation.assets:assets",
)
