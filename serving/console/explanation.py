"""Explains the features of an entity: the merge of all its parts, of each layer alone, and of each speed tile alone.

Reads a reading of the online store. Every value is computed by `serving.answer.served_features`, which is the merge of `/features`, from a part of
that reading. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec
from msgspec.structs import replace

from features.aggregations import Value
from features.declaration import FeatureGroup
from features.merge import EVER_MS
from features.packed import FORMAT, BatchValue, FeatureView
from features.speed_tiles import SpeedTiles
from serving.answer import Served, served_features
from serving.errors import RefusalError
from store.protocol import Parts, Reading

#: The number of speed tiles that are shown one by one, the newest of the entity.
MAX_TILES = 48
#: Integers up to this magnitude are exact in a browser.
_MAX_SAFE_INTEGER = 2**53 - 1


class FeatureParts(msgspec.Struct, frozen=True):
    """A feature by layer.

    Attributes:
        name: The name of the feature.
        merged: The value that `/features` answers.
        batch_part: The value from the batch view without speed tiles, for the window that ends at the time of the request.
        speed_part: The value from the speed tiles without the batch view.
        batch_alone: The value that a platform without a speed layer would serve: that as of batch_end.
        degraded: Whether `merged` may be inexact.
    """

    name: str
    merged: Value
    batch_part: Value
    speed_part: Value
    batch_alone: Value
    degraded: bool


class TileContribution(msgspec.Struct, frozen=True):
    """A speed tile: the times of its first and last event, whether it is merged, and the values of the features from this tile alone."""

    first_ms: int
    last_ms: int
    merged: bool
    values: Sequence[Value]


class Reason(msgspec.Struct, frozen=True):
    """Why values may be inexact, and the names of the affected features."""

    reason: str
    features: Sequence[str]


class Explanation(msgspec.Struct, frozen=True):
    """The features of an entity by layer, and their provenance. Times are milliseconds since 1970.

    Attributes:
        group: The name of the group.
        id: The id of the entity, as text, because a browser cannot represent every 64-bit integer.
        version: The fingerprint of the served declaration.
        known: Whether the store has a batch view or speed tiles of the entity.
        as_of_ms: The time at which the values are computed.
        batch_end_ms: The end of the entity's batch view, or batch_end of the group if the entity has no view.
        in_view: Whether the entity has a batch view.
        newest_event_ms: The time of the newest merged event; None if no event is merged.
        tiles_merged: The number of merged speed tiles.
        tile_count: The number of speed tiles in the store; `tiles` has the newest `MAX_TILES` of them.
        reasons: Why values may be inexact; empty if all values are exact.
        features: The features, in the order of the declaration.
        tiles: The newest speed tiles, ascending by time.
    """

    group: str
    id: str
    version: str
    known: bool
    as_of_ms: int
    batch_end_ms: int | None
    in_view: bool
    newest_event_ms: int | None
    tiles_merged: int
    tile_count: int
    reasons: Sequence[Reason]
    features: Sequence[FeatureParts]
    tiles: Sequence[TileContribution]


class Point(msgspec.Struct, frozen=True):
    """The value of a feature at one time, and whether the value may be inexact."""

    at_ms: int
    value: Value
    degraded: bool


class History(msgspec.Struct, frozen=True):
    """The values of a feature at several times, ascending, and its value as of batch_end."""

    points: Sequence[Point]
    batch_alone: Value


class Explainer:
    """Explains the features of one entity from one reading.

    Args:
        reading: A reading of this entity only.
        tiles_kept_ms: How long the store keeps speed tiles, in milliseconds.
    """

    def __init__(self, reading: Reading, tiles_kept_ms: int) -> None:
        self._reading, self._tiles_kept_ms = reading, tiles_kept_ms
        self._group, self._parts = reading.group, reading.parts[0]
        tiles = self._parts.tiles
        self._complete_since_ms = reading.complete_since_ms
        if isinstance(tiles, SpeedTiles):
            self._complete_since_ms = max(self._complete_since_ms, tiles.dropped_ms)

    @cached_property
    def _unpacked(self) -> Parts:
        """The parts with unpacked tiles, which the points of a history share."""
        return replace(self._parts, tiles=list(self._parts.tiles))

    @property
    def batch_end_ms(self) -> int | None:
        """The end of the entity's batch view or history, else batch_end of the group; None if nothing is published, or in Kappa without a history."""
        if self._parts.batch is not None:
            return self._parts.batch.batch_end_ms
        return None if self._reading.batch_end_ms == EVER_MS else self._reading.batch_end_ms

    def index_of(self, feature: str) -> int:
        """Returns the index of a feature in the served version of the group.

        Raises:
            RefusalError: The version has no such feature.
        """
        names = self._group.feature_names
        if feature not in names:
            raise RefusalError(404, f"The group {self._group.name} has no feature {feature!r}.", f"It has: {', '.join(names)}.")
        return names.index(feature)

    def explanation(self, entity_id: int | str, q_ms: int) -> Explanation:
        """Explains the features at `q_ms` by layer.

        Raises:
            RefusalError: `q_ms` lies before batch_end.
        """
        group, parts = self._group, self._parts
        serve = self._serve(q_ms)
        merged = serve(parts)
        without_view = replace(parts, batch=None if parts.batch is None else _empty_view(group, parts.batch))
        layers = [merged, serve(replace(parts, tiles=())), serve(without_view), serve(parts, batch_only=True)]
        touched = set(range(len(group.features))) if parts.faults else set(merged.merged.degraded_features)
        columns = zip(*([browser_value(value) for value in layer.merged.values] for layer in layers), strict=True)
        features = [
            FeatureParts(name, whole, batch, speed, alone, index in touched)
            for index, (name, (whole, batch, speed, alone)) in enumerate(zip(group.feature_names, columns, strict=True))
        ]
        return Explanation(
            group=group.name,
            id=str(entity_id),
            version=group.fingerprint,
            known=parts.known,
            as_of_ms=q_ms,
            batch_end_ms=self.batch_end_ms,
            in_view=parts.batch is not None,
            newest_event_ms=merged.merged.newest_event_ms,
            tiles_merged=merged.merged.tiles_merged,
            tile_count=len(parts.tiles),
            reasons=list(_reasons(group, merged)),
            features=features,
            tiles=[
                TileContribution(tile.first_ms, tile.last_ms, bool(alone.tiles_merged), [browser_value(v) for v in alone.values])
                for tile in parts.tiles[-MAX_TILES:]
                for alone in [serve(replace(without_view, tiles=(tile,))).merged]
            ],
        )

    def point(self, index: int, q_ms: int) -> Point:
        """Returns the value at `q_ms` of the feature with the index `index`.

        Raises:
            RefusalError: `q_ms` lies before batch_end.
        """
        merged = self._serve(q_ms)(self._unpacked).merged
        degraded = bool(self._parts.faults) or index in merged.degraded_features
        return Point(q_ms, browser_value(merged.values[index]), degraded)

    def batch_alone(self, index: int, q_ms: int) -> Value:
        """Returns the value as of batch_end of the feature with the index `index`.

        Raises:
            RefusalError: `q_ms` lies before batch_end.
        """
        return browser_value(self._serve(q_ms)(self._parts, batch_only=True).merged.values[index])

    def _serve(self, q_ms: int) -> Callable[..., Served]:
        since_ms = max(q_ms - self._tiles_kept_ms, self._complete_since_ms)
        reading = self._reading

        def serve(parts: Parts, batch_only: bool = False) -> Served:
            return served_features(
                self._group, parts, q_ms, reading.batch_end_ms, batch_only=batch_only, complete_since_ms=since_ms,
                published_known=reading.published_known,
            )  # fmt: skip

        return serve


def browser_value(value: Any) -> Any:
    """Converts a value for a browser: an integer that a browser cannot represent exactly becomes text."""
    if isinstance(value, list):
        return [browser_value(entry) for entry in value]
    return str(value) if isinstance(value, int) and abs(value) > _MAX_SAFE_INTEGER else value


def _empty_view(group: FeatureGroup, view: BatchValue) -> BatchValue:
    """Returns a view or a history without events, with the end of the entity's own."""
    return type(view)(FORMAT, group.fingerprint, view.batch_end_ms, None, [FeatureView(None, [], []) for _ in group.features])


def _reasons(group: FeatureGroup, served: Served) -> Iterable[Reason]:
    names = group.feature_names
    yield from (Reason(fault, names) for fault in served.parts.faults)
    for reason, indices in served.merged.reasons.items():
        yield Reason(reason, [names[index] for index in indices])
