"""The declarations of the forum: its sources, feature groups and model. A new feature is one new line in this file only."""

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
    WhenLate,
    count,
    distinct,
    expression,
    since_last,
    total,
)

#: `text_key` is a hash of the text in lower case without punctuation, so that copies of a text have the same key.
texts = EventSource(
    name="texts",
    topic="texts",
    table="texts",
    key="author_id",
    columns=(
        Column("event_id", required=True),
        Column("text_id", required=True),
        Column("author_id", ColumnType.INT64, required=True),
        Column("room_id", required=True),
        Column("text_key", required=True),
        Column("text", required=True),
        Column("links", ColumnType.INT64, required=True),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)
removals = EventSource(
    name="removals",
    topic="removals",
    table="removals",
    key="text_id",
    columns=(
        Column("event_id", required=True),
        Column("text_id", required=True),
        Column("author_id", ColumnType.INT64, required=True),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
)

authors = FeatureGroup(
    name="authors",
    entity="author_id",
    source=texts,
    description="What an author wrote in the last minutes to 30 days.",
    features=(
        count("texts_10m", window="10m", description="Texts."),
        count("texts_1h", window="1h", description="Texts."),
        count("texts_1d", window="1d", description="Texts."),
        count("texts_30d", window="30d", description="Texts."),
        distinct("rooms_10m", of="room_id", window="10m", description="Different rooms."),
        distinct("rooms_30d", of="room_id", window="30d", description="Different rooms."),
        distinct("different_1h", of="text_key", window="1h", description="Different texts."),
        total("links_1d", of="links", window="1d", description="Links."),
        since_last("hours_since_last", unit="hours", window="30d", default=720.0, description="Hours since the latest text."),
    ),
)

author_removals = FeatureGroup(
    name="author_removals",
    entity="author_id",
    source=removals,
    description="Texts of an author that moderators removed, by the time of the removal.",
    features=(
        count("removals_1h", window="1h", description="Removed texts."),
        count("removals_1d", window="1d", description="Removed texts."),
        count("removals_30d", window="30d", description="Removed texts."),
    ),
)

copies = FeatureGroup(
    name="copies",
    entity="text_key",
    source=texts,
    description="How often the same text was written in the last minutes to week.",
    features=(
        count("copies_10m", window="10m", description="Copies."),
        count("copies_1h", window="1h", description="Copies."),
        count("copies_7d", window="7d", description="Copies."),
        distinct("authors_1h", of="author_id", window="1h", description="Different authors."),
    ),
)

#: Requested at each text, before the text counts. The label is whether a removal follows within a day. If an answer is late, a person decides.
moderation = Model(
    name="moderation",
    inputs=(authors, author_removals, copies),
    request=(RequestColumn("text", required=True), RequestColumn("links", ColumnType.INT64, default=0)),
    derived=(
        expression("text_length", "length(text)"),
        expression("shouted", "if(text = upper(text) AND text <> lower(text), 1, 0)"),
        expression("removed_share_30d", "removals_30d / texts_30d"),
    ),
    outcome=Outcome(source=removals, join="text_id", at="text_id IS NOT NULL", within="1d"),
    budget_ms=5_000,
    when_late=WhenLate.REFUSE,
)

project = Project(sources=(texts, removals), groups=(authors, author_removals, copies), models=(moderation,))
