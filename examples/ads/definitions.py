"""The declarations of the ad exchange: its source, feature groups and model. A new feature is one new line in this file only."""

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

#: An impression, and a click with the values of its impression.
ad_events = EventSource(
    name="ad_events",
    topic="ad_events",
    table="ad_events",
    key="user_id",
    columns=(
        Column("event_id", required=True),
        Column("event_type", required=True),
        Column("impression_id", required=True),
        Column("user_id", ColumnType.INT64, required=True),
        Column("ad_id", required=True),
        Column("slot_id", required=True),
        Column("page"),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)
SHOWN, CLICKED = "event_type = 'IMPRESSION'", "event_type = 'CLICK'"

users = FeatureGroup(
    name="users",
    entity="user_id",
    source=ad_events,
    description="What a user saw and clicked in the last minutes to 30 days.",
    features=(
        count("impressions_10m", where=SHOWN, window="10m", description="Impressions."),
        count("clicks_10m", where=CLICKED, window="10m", description="Clicks."),
        count("impressions_1d", where=SHOWN, window="1d", description="Impressions."),
        count("clicks_1d", where=CLICKED, window="1d", description="Clicks."),
        count("impressions_14d", where=SHOWN, window="14d", description="Impressions."),
        count("clicks_14d", where=CLICKED, window="14d", description="Clicks."),
        distinct("ads_1h", of="ad_id", where=SHOWN, window="1h", description="Different ads."),
        since_last(
            "hours_since_click",
            where=CLICKED,
            unit="hours",
            window="14d",
            default=336.0,
            description="Hours since the latest click.",
        ),
    ),
)

ad_counters = FeatureGroup(
    name="ad_counters",
    entity="ad_id",
    source=ad_events,
    description="How often an ad was shown and clicked in the last minutes to week.",
    features=(
        count("impressions_20m", where=SHOWN, window="20m", description="Impressions."),
        count("clicks_20m", where=CLICKED, window="20m", description="Clicks."),
        count("impressions_2h", where=SHOWN, window="2h", description="Impressions."),
        count("clicks_2h", where=CLICKED, window="2h", description="Clicks."),
        count("impressions_1d", where=SHOWN, window="1d", description="Impressions."),
        count("clicks_1d", where=CLICKED, window="1d", description="Clicks."),
        count("impressions_7d", where=SHOWN, window="7d", description="Impressions."),
        count("clicks_7d", where=CLICKED, window="7d", description="Clicks."),
    ),
)

slots = FeatureGroup(
    name="slots",
    entity="slot_id",
    source=ad_events,
    description="How often ads were shown and clicked in a slot in the last minutes to week.",
    features=(
        count("impressions_20m", where=SHOWN, window="20m", description="Impressions."),
        count("clicks_20m", where=CLICKED, window="20m", description="Clicks."),
        count("impressions_2h", where=SHOWN, window="2h", description="Impressions."),
        count("clicks_2h", where=CLICKED, window="2h", description="Clicks."),
        count("impressions_7d", where=SHOWN, window="7d", description="Impressions."),
        count("clicks_7d", where=CLICKED, window="7d", description="Clicks."),
    ),
)

#: Requested before each impression, for the ads that may be shown. If an answer is late, the bidder uses a usual click probability, `when_late`.
#: The rates are smoothed, because a few impressions show little about an ad.
ads = Model(
    name="ads",
    inputs=(users, ad_counters.on("ad_id", prefix="ad_"), slots.on("slot_id", prefix="slot_")),
    request=(RequestColumn("page"),),
    derived=(
        expression("page_bucket", "hash_bucket(page, 32)", default=-1.0),
        expression("hour", "hour_of_day(request_time)"),
        expression("rate_14d", "(clicks_14d + 1) / (impressions_14d + 20)"),
        expression("ad_rate_20m", "(ad_clicks_20m + 1) / (ad_impressions_20m + 20)"),
        expression("ad_rate_2h", "(ad_clicks_2h + 1) / (ad_impressions_2h + 20)"),
        expression("ad_rate_1d", "(ad_clicks_1d + 1) / (ad_impressions_1d + 20)"),
        expression("ad_rate_7d", "(ad_clicks_7d + 1) / (ad_impressions_7d + 20)"),
        expression("slot_rate_20m", "(slot_clicks_20m + 1) / (slot_impressions_20m + 20)"),
        expression("slot_rate_2h", "(slot_clicks_2h + 1) / (slot_impressions_2h + 20)"),
        expression("slot_rate_7d", "(slot_clicks_7d + 1) / (slot_impressions_7d + 20)"),
    ),
    outcome=Outcome(at=SHOWN, where=CLICKED, join="impression_id", within="1h"),
    budget_ms=10,
    when_late=0.05,
)

project = Project(sources=(ad_events,), groups=(users, ad_counters, slots), models=(ads,))
