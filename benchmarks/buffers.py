"""The cost of a group's buffer: the bytes of one entity's packed view for buffers of 1, 2 and 7 days.

    python -m benchmarks.buffers [--json]

The entity is synthetic: for 40 days it has 5 or 100 events per day on average, at random times. Each row of the tables is a feature: a count and a
sum over a week with a sawtooth tail and with an exact tail, the distinct values of a day, and a mean over a month. The first table is in
docs/tails.md. The second table, in docs/lambda-or-kappa.md, compares the view of the default buffer with the history of Kappa.
"""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import typer

from features.aggregations import Series
from features.declaration import Feature, FeatureGroup, count, distinct, mean, total
from features.history import fold_histories, pack_history
from features.packed import encode
from features.sources import Column, ColumnType, EventSource
from features.tiles import fold_ranges, runs
from features.view import build_view
from features.windows import BUFFER_MS, DAY_MS, duration_text, floor_ms

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
BUFFER = duration_text(BUFFER_MS)
BUFFERS, PER_DAY, DAYS, BATCH_END_MS = ("1d", "2d", "7d"), (5, 100), 40, 20_000 * DAY_MS + 12_345_678


def inputs_of(group: FeatureGroup, per_day: int) -> list[Series]:
    """Returns the entity's events as the inputs of a group."""
    source = np.random.default_rng(1)
    ts_ms = np.unique(BATCH_END_MS - 1 - source.integers(0, DAYS * DAY_MS, DAYS * per_day))
    amounts = source.integers(0, 10**8, len(ts_ms))
    values = {"1": np.ones_like(ts_ms), "CAST(`amount` * 1000000 AS BIGINT)": amounts}
    hashes = source.integers(-(2**63), 2**63 - 1, len(ts_ms))
    return [Series(ts_ms, values.get(input_.sql, hashes), np.ones(len(ts_ms), bool)) for input_ in group.inputs]


def view_bytes(feature: Feature, buffer: str, per_day: int) -> int:
    """Returns the bytes of the entity's view with one feature."""
    group = FeatureGroup("buffers", "user", SOURCE, (feature,), buffer=buffer)
    inputs = inputs_of(group, per_day)
    ts_ms = inputs[0].ts_ms
    starts_ms = ts_ms // group.tile_ms * group.tile_ms
    lo, hi = runs(starts_ms)
    instants = (ts_ms.tolist(), fold_ranges(group, inputs, *runs(ts_ms))) if group.exact_windows else ()
    view = build_view(group, BATCH_END_MS, starts_ms[lo].tolist(), fold_ranges(group, inputs, lo, hi), int(ts_ms[-1]), *instants)
    return len(encode(view))


def history_bytes(feature: Feature, per_day: int) -> int:
    """Returns the bytes of the entity's history with one feature, from all events except those of the last tile."""
    group = FeatureGroup("buffers", "user", SOURCE, (feature,))
    inputs, until_ms = inputs_of(group, per_day), floor_ms(BATCH_END_MS, group.tile_ms)
    closed = inputs[0].ts_ms < until_ms
    inputs = [Series(series.ts_ms[closed], series.v[closed], series.valid[closed]) for series in inputs]
    [history] = fold_histories(group, inputs, np.zeros(len(inputs[0].ts_ms), np.int64), until_ms)
    return len(pack_history(group, history))


def main(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Prints the tables."""
    # Feature → events a day → the bytes of the view by its buffer, and the bytes of the history.
    sizes = {
        name: {
            n: {**{buffer: view_bytes(feature, buffer, n) for buffer in BUFFERS}, "history": history_bytes(feature, n)}
            for n in PER_DAY
        }
        for name, feature in FEATURES.items()
    }
    if as_json:
        print(json.dumps(sizes))
        return
    for columns in (BUFFERS, (BUFFER, "history")):
        heads = [
            f"{n} events a day: {'view' if column == BUFFER and columns != BUFFERS else column}"
            for n in PER_DAY
            for column in columns
        ]
        print(f"| feature | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        for name, of in sizes.items():
            print(f"| {name} | {' | '.join(f'{of[n][column]:,}' for n in PER_DAY for column in columns)} |")
        print()


if __name__ == "__main__":
    typer.run(main)
