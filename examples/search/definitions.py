"""The declarations of the search: its source, feature groups and model. A new feature is one new line in this file only."""

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

#: A document that was shown for a query, or a click on it. `text_match` is the score of the text search, from 0 to 1.
results = EventSource(
    name="results",
    topic="results",
    table="results",
    key="document_id",
    columns=(
        Column("event_id", required=True),
        Column("event_type", required=True),
        Column("shown_id", required=True),
        Column("search_id", required=True),
        Column("user_id", ColumnType.INT64, required=True),
        Column("document_id", required=True),
        Column("query_id", required=True),
        Column("text_match", ColumnType.DECIMAL, required=True),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)
SHOWN, CLICKED = "event_type = 'SHOWN'", "event_type = 'CLICK'"

documents = FeatureGroup(
    name="documents",
    entity="document_id",
    source=results,
    description="How often a document was shown and clicked in the last hours to week.",
    features=(
        count("shown_1h", where=SHOWN, window="1h", description="Times shown."),
        count("clicks_1h", where=CLICKED, window="1h", description="Clicks."),
        count("shown_6h", where=SHOWN, window="6h", description="Times shown."),
        count("clicks_6h", where=CLICKED, window="6h", description="Clicks."),
        count("shown_7d", where=SHOWN, window="7d", description="Times shown."),
        count("clicks_7d", where=CLICKED, window="7d", description="Clicks."),
        distinct("users_6h", of="user_id", where=CLICKED, window="6h", description="Different users who clicked."),
        since_last(
            "hours_since_click",
            where=CLICKED,
            unit="hours",
            window="7d",
            default=168.0,
            description="Hours since the latest click.",
        ),
    ),
)

pairs = FeatureGroup(
    name="pairs",
    entity=("query_id", "document_id"),
    source=results,
    description="How often a document was shown and clicked for this query.",
    features=(
        count("shown_6h", where=SHOWN, window="6h", description="Times shown."),
        count("clicks_6h", where=CLICKED, window="6h", description="Clicks."),
        count("shown_14d", where=SHOWN, window="14d", description="Times shown."),
        count("clicks_14d", where=CLICKED, window="14d", description="Clicks."),
    ),
)

#: Requested for the documents that the text search has found. The label is whether a click follows within 30 minutes.
search = Model(
    name="search",
    inputs=(documents, pairs.on("query_id", "document_id", prefix="pair_")),
    request=(RequestColumn("text_match", ColumnType.DECIMAL, required=True),),
    derived=(
        expression("rate_1h", "(clicks_1h + 1) / (shown_1h + 10)"),
        expression("rate_6h", "(clicks_6h + 1) / (shown_6h + 10)"),
        expression("rate_7d", "(clicks_7d + 1) / (shown_7d + 10)"),
        expression("pair_rate_6h", "(pair_clicks_6h + 1) / (pair_shown_6h + 10)"),
        expression("pair_rate_14d", "(pair_clicks_14d + 1) / (pair_shown_14d + 10)"),
    ),
    outcome=Outcome(at=SHOWN, where=CLICKED, join="shown_id", within="30m"),
    budget_ms=50,
)

project = Project(sources=(results,), groups=(documents, pairs), models=(search,))
