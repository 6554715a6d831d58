"""The layout of the online store: which keys there are, and which fields.

    {group}:{id}                             hash   an entity, see `features.packed`
        batch:{version}                             its batch view
        s:{version}                                 the stamp of that view: see `stamp`
        speed:{version}                             its speed tiles, as one value: see `features.speed_value`
        folded:{version}                            which events are in them: see `store.tiles`
        history:{version}                           in Kappa, in the place of the batch view: see `features.history`
    braid/published/{group}                  hash   what was published of the group last: see `store.publishing`;
        tiles:{format}:{version}                    and since when its tiles are complete: see `store.tiles`
    braid/known/{group}/{version}/{bucket}   hash   entity id → the stamp of the view that was published of it: see `known_stamp`
    braid/marks/{token}/{bucket}             hash   task of a streaming query → the micro-batch whose tiles it wrote last
    braid/copies/{checkpoint}/{bucket}       hash   which events a stream has seen: see `store.copies`
    braid/high-water/{query}                 hash   micro-batch → the highest time of an event in it
    braid/progress                           hash   streaming query → how far it is, as JSON
    braid/notes/{kind}                       hash   what a process wants to remember, as JSON: open alerts
    braid/generation                         text   the name of the store's content

The name of a group is a word without a slash and its entities' keys have a colon behind it, so no group's name leads to a key of the store's
own, whatever it is called. `version` is the beginning of the declaration's fingerprint.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from features.speed_value import SPEED_FORMAT

#: The length of a stamp: two times of 15 digits, with a point between them.
_STAMP_LENGTH = 31
PROGRESS_KEY = "braid/progress"
GENERATION_KEY = "braid/generation"


def meta_key(group: str) -> str:
    """The hash of what was published of a group."""
    return f"braid/published/{group}"


def tiles_field(version: str) -> str:
    """Its field of since when the tiles of a version are complete; a request reads it with what is published.

    The tiles of another format count for nothing, so the stream is read again where the format changes.
    """
    return f"tiles:{SPEED_FORMAT}:{version}"


def notes_key(kind: str) -> str:
    """The hash of the notes of a kind."""
    return f"braid/notes/{kind}"


def high_water_key(query: str) -> str:
    """The hash of the highest times of events that a streaming query has read."""
    return f"braid/high-water/{query}"


def version_of(fingerprint: str) -> str:
    """The version of a declaration as fields and keys name it."""
    return fingerprint[:8]


def stamp_field(version: str) -> bytes:
    """The field of the stamp of an entity's batch view."""
    return b"s:" + version.encode()


def stamp(batch_end_ms: int, built_at_ms: int) -> bytes:
    """The order of the views of one version as text: by batch_end, and of one batch_end by when the view was built."""
    return b"%015d.%015d" % (batch_end_ms, built_at_ms)


def known_stamp(stamp_of_view: bytes, lost_until_ms: int) -> bytes:
    """The stamp of a known entity whose key was lost, with the time before which its speed tiles may be missing. It follows upon the stamp of its view."""
    return b"%b %015d" % (stamp_of_view, lost_until_ms)


def lost_until_of(stamp_of_known: bytes) -> int | None:
    """The time before which the speed tiles of a known entity may be missing; None where its key was not lost."""
    return int(stamp_of_known[_STAMP_LENGTH:]) if len(stamp_of_known) > _STAMP_LENGTH else None


def batch_end_of(stamp_of_view: bytes) -> int:
    """The batch_end in a stamp."""
    return int(stamp_of_view[:15])


def _spread_tags(count: int) -> tuple[str, ...]:
    """Hash tags whose slots lie evenly in a cluster's slots: each primary has one of them, where there are at most `count`."""
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < count:
        tags.setdefault(key_slot(str(number).encode()) * count // REDIS_CLUSTER_HASH_SLOTS, str(number))
        number += 1
    return tuple(tags[part] for part in sorted(tags))


#: The buckets of a cluster. A single server has one bucket: a request then asks once for all of its entities.
_CLUSTER_BUCKETS = _spread_tags(16)


class Buckets:
    """How the store's own data of many entities is spread over the servers of a cluster."""

    def __init__(self, cluster: bool) -> None:
        self.names = _CLUSTER_BUCKETS if cluster else ("0",)

    def known_keys(self, group: str, version: str) -> list[str]:
        """All keys of the entities of a published version."""
        return [f"braid/known/{group}/{version}/{{{name}}}" for name in self.names]

    def mark_keys(self, token: str) -> list[str]:
        """The keys of the marks of a streaming query, one per bucket."""
        return [f"braid/marks/{token}/{{{name}}}" for name in self.names]

    def copies_keys(self, memory: str) -> list[str]:
        """The keys of the events that a stream has seen, one per bucket."""
        return [f"braid/copies/{memory}/{{{name}}}" for name in self.names]

    def split(self, ids: Sequence[int | str]) -> Iterable[tuple[int, list[int]]]:
        """Index of a bucket → the positions of its ids in `ids`."""
        if len(self.names) == 1:
            return [(0, list(range(len(ids))))] if ids else []
        places: dict[int, list[int]] = {}
        for position, entity_id in enumerate(ids):
            places.setdefault(zlib.crc32(str(entity_id).encode()) % len(self.names), []).append(position)
        return places.items()
