"""The fold: what the new events of a micro-batch make of the open tiles of their entities. Pure, in columns.

Reads Arrow columns of `speed.stream.by_entity` and the open tiles of their entities as the last micro-batch left them; gives tiles to be put into the
online store, and the open tiles as they are from now on. Each event costs once, however many its tile has: a new event is folded with
the others of its micro-batch, and their tile is joined to the one that is there.

A micro-batch that is made again changes nothing: open tiles say up to which offset of each partition they hold the events of their entity, and events before
it are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from features.aggregations import Ints, Series
from features.declaration import FeatureGroup
from features.packed import FORMAT, TileValue
from features.sources import ColumnType
from features.tiles import fold_tile_values, join_tile_values, runs
from features.windows import floor_ms


class OpenTiles(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The tiles of one entity to which events may still come.

    Attributes:
        format: `features.packed.FORMAT`.
        newest_ms: The entity's latest event.
        offsets: Per partition the offset of the first event that is in no tile yet.
        tiles: By their starts.
    """

    format: int
    newest_ms: int
    offsets: dict[int, int]
    tiles: dict[int, TileValue]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(OpenTiles)


def encode_open(value: OpenTiles) -> bytes:
    """The bytes of open tiles."""
    return _encoder.encode(value)


def decode_open(data: bytes | None) -> OpenTiles | None:
    """The open tiles in `data`; None for none, and for those of another format, which is a reason to read the stream again."""
    value = None if data is None else _decoder.decode(data)
    return value if value is not None and value.format == FORMAT else None


@dataclass(frozen=True)
class Contributions:
    """What events contribute to a group: `entities` are the different ones, all else are arrays of one length, an item per event.

    Attributes:
        entities: The ids of the entities.
        entity: The index in `entities`.
        ts_ms: The time of the event.
        partition: Where its message is.
        offset: Where its message is.
        inputs: Per input of the group the values, and where one is present.
    """

    entities: Sequence[int | str]
    entity: Ints
    ts_ms: Ints
    partition: Ints
    offset: Ints
    inputs: Sequence[tuple[np.ndarray, np.ndarray]]

    def take(self, chosen: np.ndarray) -> Contributions:
        """Those at some indices, or where a mask is true."""
        inputs = [(values[chosen], present[chosen]) for values, present in self.inputs]
        entity, ts_ms = self.entity[chosen], self.ts_ms[chosen]
        return Contributions(self.entities, entity, ts_ms, self.partition[chosen], self.offset[chosen], inputs)


def contributions_of(group: FeatureGroup, rows: pa.Table, inputs: Sequence[str]) -> Contributions:
    """The columns of `speed.stream.by_entity` of one entity column as arrays; `inputs` names those of the group's inputs."""
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


def fold(
    group: FeatureGroup, new: Contributions, before: Sequence[OpenTiles | None], watermark_ms: int
) -> tuple[list[tuple[int | str, int, TileValue]], list[tuple[int | str, OpenTiles]]]:
    """The tiles (entity, start, value) that change, and the open tiles of each entity that has a new event.

    Args:
        group: The declaration.
        new: All events of a micro-batch of these entities, in any order, no two of them copies.
        before: The open tiles of `new.entities`, in their order.
        watermark_ms: By how much an event may be behind the latest one before it; those behind it are not among `new`.
    """
    new = new.take(_not_yet_folded(new, before))
    if not len(new.entity):
        return [], []
    new = new.take(np.lexsort((new.ts_ms, new.entity)))
    starts_ms = floor_ms(new.ts_ms, group.tile_ms)
    lo, hi = runs(new.entity, starts_ms)
    series = [Series(new.ts_ms, values, present) for values, present in new.inputs]
    changed: dict[int, dict[int, TileValue]] = {}
    for index, start_ms, value in zip(
        new.entity[lo].tolist(), starts_ms[lo].tolist(), fold_tile_values(group, series, lo, hi), strict=True
    ):
        known = before[index].tiles.get(start_ms) if before[index] else None
        changed.setdefault(index, {})[start_ms] = join_tile_values(group, known, value) if known else value
    offsets = _next_offsets(new)
    tiles, opened = [], []
    for index, values in changed.items():
        entity, state = new.entities[index], before[index]
        tiles += [(entity, start_ms, value) for start_ms, value in values.items()]
        newest_ms, rest, done = max(value.last_ms for value in values.values()), {}, {}
        if state:
            # No event of this micro-batch, nor of a later one, comes to a tile that was closed before it.
            closed_ms = state.newest_ms - watermark_ms - group.tile_ms
            rest = {start_ms: value for start_ms, value in state.tiles.items() if start_ms > closed_ms}
            newest_ms, done = max(newest_ms, state.newest_ms), state.offsets
        opened.append((entity, OpenTiles(FORMAT, newest_ms, {**done, **offsets[index]}, {**rest, **values})))
    return tiles, opened


def _not_yet_folded(new: Contributions, before: Sequence[OpenTiles | None]) -> np.ndarray:
    """Which events are in no tile yet."""
    done: dict[int, Ints] = {}
    for index, state in enumerate(before):
        for partition, offset in state.offsets.items() if state else ():
            done.setdefault(partition, np.zeros(len(before), np.int64))[index] = offset
    fresh = np.ones(len(new.entity), dtype=bool)
    for partition, offsets in done.items():
        fresh &= (new.partition != partition) | (new.offset >= offsets[new.entity])
    return fresh


def _next_offsets(new: Contributions) -> Mapping[int, dict[int, int]]:
    """Index of an entity → partition → the offset behind its last event."""
    order = np.lexsort((new.offset, new.partition, new.entity))
    entity, partition, offset = new.entity[order], new.partition[order], new.offset[order]
    _, hi = runs(entity, partition)
    found: dict[int, dict[int, int]] = {}
    for index, of, last in zip(entity[hi - 1].tolist(), partition[hi - 1].tolist(), offset[hi - 1].tolist(), strict=True):
        found.setdefault(index, {})[of] = last + 1
    return found
