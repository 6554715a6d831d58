"""What a group's buffer costs: the bytes of one entity's packed view for buffers of 1, 2 and 7 days.

    python -m benchmarks.buffers

The entity is synthetic: an event at a random time, so many per day on the mean, for 40 days. A feature per row: a count and a sum
over a week with a sawtooth tail and with an exact one, the distinct values of a day, and a mean over a month. The table is that of
docs/tails.md.
"""

from __future__ import annotations

import numpy as np

from features.aggregations import Series
from features.declaration import Feature, FeatureGroup, count, distinct, mean, total
from features.packed import encode
from features.sources import Column, ColumnType, EventSource
from features.tiles import fold_ranges, runs
from features.view import build_view
from features.windows import DAY_MS

SOURCE = EventSource(
    "synthetic", "synthetic", "synthetic",
    (
        Column("event_id", required=True), Column("user", required=True), Column("amount", ColumnType.DECIMAL), Column("session"),
        Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
    key="user",
)  # fmt: skip
FEATURES: dict[str, Feature] = {
    "`count`, 7 d": count("f", window="7d"),
    "`count`, 7 d, exact": count("f", window="7d", tail="exact"),
    "`total`, 7 d": total("f", of="amount", window="7d"),
    "`total`, 7 d, exact": total("f", of="amount", window="7d", tail="exact"),
    "`distinct`, 1 d": distinct("f", of="session", window="1d"),
    "`mean`, 30 d": mean("f", of="amount", window="30d"),
}
BUFFERS, PER_DAY, DAYS, BATCH_END_MS = ("1d", "2d", "7d"), (5, 100), 40, 20_000 * DAY_MS + 12_345_678


def view_bytes(feature: Feature, buffer: str, per_day: int) -> int:
    """The bytes of the view of the entity with one feature."""
    group = FeatureGroup("buffers", "user", SOURCE, (feature,), buffer=buffer)
    source = np.random.default_rng(1)
    ts_ms = np.unique(BATCH_END_MS - 1 - source.integers(0, DAYS * DAY_MS, DAYS * per_day))
    amounts = source.integers(0, 10**8, len(ts_ms))
    values = {"1": np.ones_like(ts_ms), "CAST(`amount` * 1000000 AS BIGINT)": amounts}
    hashes = source.integers(-(2**63), 2**63 - 1, len(ts_ms))
    inputs = [Series(ts_ms, values.get(input_.sql, hashes), np.ones(len(ts_ms), bool)) for input_ in group.inputs]
    starts_ms = ts_ms // group.tile_ms * group.tile_ms
    lo, hi = runs(starts_ms)
    instants = (ts_ms.tolist(), fold_ranges(group, inputs, *runs(ts_ms))) if group.exact_windows else ()
    view = build_view(group, BATCH_END_MS, starts_ms[lo].tolist(), fold_ranges(group, inputs, lo, hi), int(ts_ms[-1]), *instants)
    return len(encode(view))


def main() -> None:
    """Prints the table."""
    print(f"| feature | {' | '.join(f'{n} events a day: {buffer}' for n in PER_DAY for buffer in BUFFERS)} |")
    print(f"|---|{'---|' * len(PER_DAY) * len(BUFFERS)}")
    for name, feature in FEATURES.items():
        print(f"| {name} | {' | '.join(f'{view_bytes(feature, buffer, n):,}' for n in PER_DAY for buffer in BUFFERS)} |")


if __name__ == "__main__":
    main()
