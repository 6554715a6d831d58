"""The declarations of the card issuer: its sources, feature groups and model. A new feature is one new line in this file only."""

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
    mean,
    since_last,
    total,
)

#: A purchase, and a chargeback with the values of its purchase.
COLUMNS = (
    Column("event_id", required=True),
    Column("event_type", required=True),
    Column("transaction_id", required=True),
    Column("card_id", ColumnType.INT64, required=True),
    Column("terminal_id", required=True),
    Column("amount", ColumnType.DECIMAL, required=True),
    Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
)
transactions = EventSource(name="transactions", topic="transactions", table="transactions", key="card_id", columns=COLUMNS)
chargebacks = EventSource(name="chargebacks", topic="chargebacks", table="chargebacks", key="transaction_id", columns=COLUMNS)

cards = FeatureGroup(
    name="cards",
    entity="card_id",
    source=transactions,
    description="What a card paid in the last minutes, hours and weeks.",
    features=(
        count("purchases_10m", window="10m", description="Purchases."),
        count("purchases_1h", window="1h", description="Purchases."),
        count("purchases_1d", window="1d", description="Purchases."),
        count("purchases_7d", window="7d", description="Purchases."),
        count("purchases_30d", window="30d", description="Purchases."),
        total("spend_1d", of="amount", window="1d", description="Money spent."),
        total("spend_30d", of="amount", window="30d", description="Money spent."),
        mean("mean_amount_30d", of="amount", window="30d", description="Mean amount of a purchase."),
        distinct("terminals_1h", of="terminal_id", window="1h", description="Different terminals."),
        distinct("terminals_1d", of="terminal_id", window="1d", description="Different terminals."),
        since_last("hours_since_last", unit="hours", window="30d", default=720.0, description="Hours since the latest purchase."),
    ),
)

terminals = FeatureGroup(
    name="terminals",
    entity="terminal_id",
    source=transactions,
    description="What a terminal took in the last hour, day and week.",
    features=(
        count("purchases_1h", window="1h", description="Purchases."),
        count("purchases_1d", window="1d", description="Purchases."),
        count("purchases_7d", window="7d", description="Purchases."),
        distinct("cards_1h", of="card_id", window="1h", description="Different cards."),
        distinct("cards_1d", of="card_id", window="1d", description="Different cards."),
        mean("mean_amount_1h", of="amount", window="1h", description="Mean amount of a purchase."),
        mean("mean_amount_7d", of="amount", window="7d", description="Mean amount of a purchase."),
    ),
)

terminal_chargebacks = FeatureGroup(
    name="terminal_chargebacks",
    entity="terminal_id",
    source=chargebacks,
    description="Which purchases at a terminal turned out to be fraud, by the time at which this became known.",
    features=(
        count("chargebacks_1d", window="1d", description="Chargebacks."),
        count("chargebacks_7d", window="7d", description="Chargebacks."),
    ),
)

#: Requested at each purchase, before the purchase counts. The label is whether a chargeback of the purchase follows within 7 days.
fraud = Model(
    name="fraud",
    inputs=(
        cards,
        terminals.on("terminal_id", prefix="terminal_"),
        terminal_chargebacks.on("terminal_id", prefix="terminal_"),
    ),
    request=(RequestColumn("amount", ColumnType.DECIMAL, required=True),),
    derived=(
        expression("hour", "hour_of_day(request_time)"),
        expression("amount_to_mean", "amount / mean_amount_30d"),
    ),
    outcome=Outcome(source=chargebacks, join="transaction_id", at="event_type = 'PURCHASE'", within="7d"),
    budget_ms=50,
)

project = Project(sources=(transactions, chargebacks), groups=(cards, terminals, terminal_chargebacks), models=(fraud,))
