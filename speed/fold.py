"""The fold: joins the new events of a micro-batch to the open tiles of their entities. Pure functions on columns.

Reads Arrow columns of `speed.stream.by_entity` and the open tiles that the last micro-batch left; returns the tiles to be written into the online
store. The cost of an event does not depend on the number of events in its tile: the new events of a micro-batch are folded into new tiles, and each
new tile is joined to the stored one.

A micro-batch that is made again changes nothing: beside the tiles of an entity, the store has the offset of each partition before which they contain
the events of the entity. Events before this offset are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.aggregations import Ints, Series
from features.declaration import FeatureGroup
from features.history import pack_history, roll, unpack_history
from features.merge import EVER_MS
from features.open_tile import join_tile
from features.packed import TileValue
from features.sources import ColumnType
from features.speed_value import pack_tile
from features.tiles import fold_tile_values, runs
from features.windows import floor_ms
from store.protocol import OpenTiles


@dataclass(frozen=True)
class Rolled:
    """The changes of a micro-batch to entities with histories.

    Attributes:
        tiles: The changed tiles (entity, start in ms, packed value) that do not join a history.
        histories: Entity → its packed history, for each changed history.
        folded: Entity → partition → the offset before which its events are in the tiles or the history.
    """

    tiles: list[tuple[int | str, int, bytes]]
    histories: dict[int | str, bytes]
    folded: dict[int | str, dict[int, int]]


@dataclass(frozen=True)
class Contributions:
    """The contributions of events to a group. All attributes except `entities` are arrays with an item per event.

    Attributes:
        entities: The different ids of the entities.
        entity: The index of the event's entity in `entities`.
        ts_ms: The time of the event.
        partition: The partition of its message.
        offset: The offset of its message.
        inputs: Per input of the group the values, and a mask that is true if the value is present.
    """

    entities: Sequence[int | str]
    entity: Ints
    ts_ms: Ints
    partition: Ints
    offset: Ints
    inputs: Sequence[tuple[np.ndarray, np.ndarray]]

    def take(self, chosen: np.ndarray) -> Contributions:
        """Returns the contributions at the indices `chosen`, or those for which the mask `chosen` is true."""
        inputs = [(values[chosen], present[chosen]) for values, present in self.inputs]
        entity, ts_ms = self.entity[chosen], self.ts_ms[chosen]
        return Contributions(self.entities, entity, ts_ms, self.partition[chosen], self.offset[chosen], inputs)


def contributions_of(group: FeatureGroup, rows: pa.Table, inputs: Sequence[str]) -> Contributions:
    """Converts rows of `speed.stream.by_entity` to arrays.

    Args:
        group: The declaration.
        rows: The rows of the group's entities.
        inputs: The columns of the group's inputs, in their order.
    """
    keys = rows.column("entity").combine_chunks().dictionary_encode()
    ids = keys.dictionary.to_pylist()
    entity, ts_ms, partition, offset = (
        column.to_numpy(zero_copy_only=False).astype(np.int64)
        for column in (keys.indices, *(rows.column(name) for name in ("ts_ms", "kafka_partition", "kafka_offset")))
    )
    values = [
        (column.fill_null("" if one.text else 0).to_numpy(), column.is_valid().to_numpy())
        for one, column in zip(group.inputs, (rows.column(name) for name in inputs), strict=True)
    ]
    return Contributions(
        [int(one) for one in ids] if group.entity_type is ColumnType.INT64 else ids, entity, ts_ms, partition, offset, values
    )


def first_starts(group: FeatureGroup, new: Contributions) -> dict[int | str, int]:
    """Returns entity → the start of the first tile that has a new event, in ms, in the order of `new.entities`."""
    first_ms = np.full(len(new.entities), np.iinfo(np.int64).max)
    np.minimum.at(first_ms, new.entity, floor_ms(new.ts_ms, group.tile_ms))
    return dict(zip(new.entities, first_ms.tolist(), strict=True))


def fold(group: FeatureGroup, new: Contributions) -> list[tuple[int | str, int, TileValue]]:
    """Folds events into tiles. Returns the tiles: entity, start in ms, value.

    Args:
        group: The declaration.
        new: The contributions, in any order, without copies.
    """
    new = new.take(np.lexsort((new.ts_ms, new.entity)))
    starts_ms = floor_ms(new.ts_ms, group.tile_ms)
    lo, hi = runs(new.entity, starts_ms)
    series = [Series(new.ts_ms, values, present) for values, present in new.inputs]
    entities = [new.entities[index] for index in new.entity[lo].tolist()]
    return list(zip(entities, starts_ms[lo].tolist(), fold_tile_values(group, series, lo, hi), strict=True))


def fold_into(
    group: FeatureGroup, new: Contributions, before: Sequence[OpenTiles | None]
) -> tuple[list[tuple[int | str, int, bytes]], dict[int | str, dict[int, int]]]:
    """Folds the events of a micro-batch into the stored tiles of their entities.

    Args:
        group: The declaration.
        new: All contributions of the micro-batch to these entities, in any order, without copies.
        before: The stored state of `new.entities`, in their order, with at least the tiles that have a new event.

    Returns:
        The changed tiles (entity, start in ms, packed value), and for their entities: entity → partition → the offset before which its events are in
        the tiles.
    """
    new = new.take(_not_yet_folded(new, before))
    if not len(new.entity):
        return [], {}
    known = dict(zip(new.entities, before, strict=True))
    tiles = []
    for entity, start_ms, value in fold(group, new):
        state = known[entity]
        open_tile = state.tiles.get(start_ms) if state else None
        packed = join_tile(group, start_ms, open_tile, value) if open_tile else pack_tile(group, start_ms, value)
        tiles.append((entity, start_ms, packed))
    folded = {}
    for index, offsets in _next_offsets(new).items():
        state = before[index]
        folded[new.entities[index]] = {**(state.offsets if state else {}), **offsets}
    return tiles, folded


def roll_into(group: FeatureGroup, new: Contributions, before: Sequence[OpenTiles | None], closed_ms: int) -> Rolled:
    """Does what `fold_into` does, in an architecture with histories: the tiles that the watermark has closed join the history of their entity.

    An event that lies before the end of the history and is not late joins the history as well. Such events occur when the stream is read again: the
    messages of its partitions then arrive in another order, which also moves the watermark in another way.

    Args:
        group: The declaration.
        new: As in `fold_into`.
        before: As in `fold_into`, with the closed tiles and the history.
        closed_ms: Tiles that start before this time, in ms, are closed: no event that is read after those of `new` counts in them. `EVER_MS` before
            the first micro-batch.
    """
    changed, folded = fold_into(group, new, before)
    of_entity: dict[int | str, dict[int, bytes]] = {}
    for entity, start_ms, packed in changed:
        of_entity.setdefault(entity, {})[start_ms] = packed
    states = dict(zip(new.entities, before, strict=True))
    histories = {}
    for entity, tiles in of_entity.items():
        state = states[entity]
        history = unpack_history(state.history, group) if state and state.history else None
        known = state.tiles if state else {}
        joining = {start_ms: packed for start_ms, packed in known.items() if start_ms < closed_ms}
        end_ms = max(history.until_ms if history else EVER_MS, closed_ms if joining else EVER_MS)
        joining |= {start_ms: tiles.pop(start_ms) for start_ms in list(tiles) if start_ms < end_ms}
        if joining:
            histories[entity] = pack_history(group, roll(group, history, joining, end_ms))
    left = [(entity, start_ms, packed) for entity, tiles in of_entity.items() for start_ms, packed in tiles.items()]
    return Rolled(left, histories, folded)


def _not_yet_folded(new: Contributions, before: Sequence[OpenTiles | None]) -> np.ndarray:
    """Returns the mask of the events that are in no tile yet."""
    done: dict[int, Ints] = {}
    for index, state in enumerate(before):
        for partition, offset in state.offsets.items() if state else ():
            if partition not in done:
                done[partition] = np.zeros(len(before), np.int64)
            done[partition][index] = offset
    fresh = np.ones(len(new.entity), dtype=bool)
    for partition, offsets in done.items():
        fresh &= (new.partition != partition) | (new.offset >= offsets[new.entity])
    return fresh


def _next_offsets(new: Contributions) -> dict[int, dict[int, int]]:
    """Returns index of an entity → partition → the offset after its last event."""
    order = np.lexsort((new.offset, new.partition, new.entity))
    entity, partition, offset = new.entity[order], new.partition[order], new.offset[order]
    _, hi = runs(entity, partition)
    found: dict[int, dict[int, int]] = {}
    for index, of, last in zip(entity[hi - 1].tolist(), partition[hi - 1].tolist(), offset[hi - 1].tolist(), strict=True):
        found.setdefault(index, {})[of] = last + 1
    return found
