"""Declarations of tests: payments by card at terminals, charge-backs, and models over both groups."""

from __future__ import annotations

from braid import (
    Column,
    ColumnType,
    EventSource,
    FeatureGroup,
    Labels,
    Model,
    Outcome,
    Project,
    RequestColumn,
    count,
    expression,
    last_k,
    mean,
    total,
)

payments = EventSource(
    name="payments", topic="payments", table="payments", event_id="payment_id", time="paid_at", key="card_id",
    columns=(
        Column("payment_id", required=True), Column("card_id", ColumnType.INT64, required=True), Column("terminal_id"),
        Column("amount", ColumnType.DECIMAL), Column("channel"), Column("paid_at", ColumnType.TIMESTAMP, required=True),
    ),
)  # fmt: skip
chargebacks = EventSource(
    name="chargebacks", topic="chargebacks", table="chargebacks", event_id="chargeback_id", time="told_at", key="payment_id",
    columns=(
        Column("chargeback_id", required=True), Column("payment_id", required=True), Column("reason"),
        Column("told_at", ColumnType.TIMESTAMP, required=True),
    ),
)  # fmt: skip
cards = FeatureGroup(
    "cards", "card_id", payments,
    (count("payments_1h", window="1h"), mean("mean_amount_1d", of="amount", window="1d", default=-1.0), last_k("amounts", of="amount", k=2)),
)  # fmt: skip
terminals = FeatureGroup(
    "terminals", "terminal_id", payments, (count("payments_1h", window="1h"), count("payments_1d", window="1d"))
)
card_at_terminal = FeatureGroup(
    "card_at_terminal",
    ("card_id", "terminal_id"),
    payments,
    (count("payments_3d", window="3d"), total("spend_3d", of="amount", window="3d")),
)

fraud = Model(
    name="fraud",
    inputs=(cards, terminals.on("terminal_id", prefix="terminal_"), card_at_terminal.on("card_id", "terminal_id", prefix="pair_")),
    request=(RequestColumn("amount", ColumnType.DECIMAL, required=True), RequestColumn("channel", default="chip")),
    derived=(
        expression("amount_to_mean", "amount / mean_amount_1d"),
        expression("channel_bucket", "hash_bucket(channel, 8)"),
        expression("hour", "hour_of_day(request_time)"),
    ),
    outcome=Outcome(where="reason = 'fraud'", source=chargebacks, join="payment_id", at="amount > 0", within="2h"),
    budget_ms=1_500,
    when_late=0.25,
)  #: The labels are the owner's own; two terminals are in one vector, by two keys.
relay = Model(
    name="relay",
    inputs=(terminals, terminals.on("other_terminal_id", prefix="other_")),
    request=(RequestColumn("minutes", ColumnType.INT64),),
    outcome=Labels(within="1h"),
)

project = Project(sources=(payments, chargebacks), groups=(cards, terminals, card_at_terminal), models=(fraud, relay))
