"""The fold of a micro-batch, without Spark: which events of a tile count, whatever slice of a batch they come in."""

from __future__ import annotations

from itertools import permutations

import pyarrow as pa

from features.arrival import ARRIVAL_ORDER
from features.packed import decode_log
from speed.fold import fold_batch
from tests.declarations import user_features

TILE = 1_795_000_200_000
EVENT = pa.struct(
    [
        (name, pa.int64())
        for name in ("id", "arrival_ms", "place", "ts_ms", *(f"input_{i}" for i in range(len(user_features.inputs))))
    ]
)


def event(
    identity: int, arrival: int, ts_ms: int, amount: int | None = None, session: int = 1, place: int = 0
) -> dict[str, int | None]:
    bought = None if amount is None else 1
    return {
        "id": identity,
        "arrival_ms": arrival,
        "place": place,
        "ts_ms": ts_ms,
        "input_0": 1,
        "input_1": amount,
        "input_2": session,
        "input_3": bought,
    }


def rows(*lists: list[dict[str, int | None]]) -> pa.RecordBatch:
    return pa.record_batch({"events": pa.array(lists, pa.list_(EVENT))})


def test_of_events_with_one_id_the_first_to_arrive_counts() -> None:
    (tile,) = fold_batch(user_features, rows([event(7, 20, TILE + 1, 900), event(7, 10, TILE + 1, 500), event(8, 30, TILE)]))
    assert tile.partials[:2] == [2, (0, 500)]
    assert (tile.first_ms, tile.last_ms) == (TILE, TILE + 1)


def test_the_first_to_arrive_is_the_same_however_the_events_are_cut_into_partitions() -> None:
    """By arrival, then partition, then offset: not by the partition first."""
    names = ("id", *ARRIVAL_ORDER, "ts_ms", *(f"input_{i}" for i in range(len(user_features.inputs))))
    copies = [(50, 0, 9, 300), (40, 3, 7, 100), (40, 2, 8, 200), (40, 2, 6, 400)]
    for order in permutations(copies):
        events = [dict(zip(names, (7, *arrival, TILE, 1, amount, 1, 1), strict=True)) for *arrival, amount in order]
        struct = pa.struct([(name, pa.int64()) for name in names])
        (tile,) = fold_batch(user_features, pa.record_batch({"events": pa.array([events], pa.list_(struct))}))
        assert tile.partials[:2] == [1, (0, 400)]


def test_one_id_in_two_tiles_is_two_events() -> None:
    assert [tile.partials[0] for tile in fold_batch(user_features, rows([event(7, 1, TILE)], [event(7, 2, TILE)]))] == [1, 1]


def test_the_log_has_each_instant_in_order_and_only_where_there_are_several() -> None:
    one, many = fold_batch(
        user_features, rows([event(1, 1, TILE), event(2, 2, TILE)], [event(3, 4, TILE + 9), event(4, 3, TILE), event(5, 5, TILE)])
    )
    assert bytes(one.log) == b"\xc0"
    assert decode_log(one)[0][1][0] == 2
    assert [(ts_ms, partials[0]) for ts_ms, partials in decode_log(many)] == [(TILE, 2), (TILE + 9, 1)]


def test_a_slice_of_a_batch_folds_like_the_batch() -> None:
    batch = rows([event(1, 1, TILE, 5)], [event(2, 2, TILE, 6), event(3, 3, TILE + 1, 7)], [event(4, 4, TILE)])
    assert fold_batch(user_features, batch.slice(1, 2)) == fold_batch(user_features, batch)[1:]
