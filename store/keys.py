"""The layout of the online store: its keys and their fields.

    {group}:{id}                             hash   an entity (`features.packed`)
        batch:{version}                             its batch view
        s:{version}                                 the stamp of that view (`stamp`)
        speed:{version}                             its speed tiles, and the offsets of the events in them and in the history (`features.speed_value`)
        history:{version}                           in Kappa, instead of the batch view: its history (`features.history`)
    braid/published/{group}                  hash   the metadata of the group's last publication (`store.publishing`)
        tiles:{format}:{version}                    the stream of tiles of a version (`store.protocol.Tiles`), as JSON
    braid/known/{group}/{version}/{bucket}   hash   entity id → the stamp of its published view (`stamp`, `known_stamp`)
    braid/marks/{token}/{bucket}             hash   task of a streaming query → the last micro-batch whose tiles it wrote
    braid/copies/{checkpoint}/{bucket}       hash   the events that a stream has seen (`store.copies`)
    braid/high-water/{query}                 hash   micro-batch → the highest time of an event in it, in ms
    braid/progress                           hash   streaming query → its progress, as JSON (`speed.progress`)
    braid/notes/{kind}                       hash   notes of processes, as JSON, such as open alerts and checkpoints
    braid/generation                         text   the name of the store's content

The name of a group has no slash, and the keys of its entities have a colon directly after the name. So no name of a group leads to one of the
`braid/` keys. `version` is the first 8 digits of the declaration's fingerprint.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from features.speed_value import SPEED_FORMAT

#: The length of a stamp: two times of 15 digits and a point between them.
_STAMP_LENGTH = 31
PROGRESS_KEY = "braid/progress"
GENERATION_KEY = "braid/generation"


def meta_key(group: str) -> str:
    """Returns the key of the hash with the published metadata of a group."""
    return f"braid/published/{group}"


def tiles_field(version: str) -> str:
    """Returns the field of `meta_key` with the stream of tiles of a version. A request reads it together with the published metadata.

    The name contains the format of the tiles. After a change of the format there is no such field, so the stream is read again.
    """
    return f"tiles:{SPEED_FORMAT}:{version}"


def notes_key(kind: str) -> str:
    """Returns the key of the hash with the notes of a kind."""
    return f"braid/notes/{kind}"


def high_water_key(query: str) -> str:
    """Returns the key of the hash with the highest time of an event per micro-batch of a streaming query."""
    return f"braid/high-water/{query}"


def version_of(fingerprint: str) -> str:
    """Returns the version of a declaration as it occurs in fields and keys: the first 8 digits of the fingerprint."""
    return fingerprint[:8]


def stamp_field(version: str) -> bytes:
    """Returns the field with the stamp of an entity's batch view."""
    return b"s:" + version.encode()


def stamp(batch_end_ms: int, built_at_ms: int) -> bytes:
    """Returns the stamp of a view. Stamps, compared as bytes, order the views of a version by batch_end, then by the time of their building."""
    return b"%015d.%015d" % (batch_end_ms, built_at_ms)


def known_stamp(stamp_of_view: bytes, lost_until_ms: int) -> bytes:
    """Returns the stamp of a known entity whose key was lost: the stamp of its view, followed by `lost_until_ms`.

    It is greater than the stamp of the view alone. Speed tiles of the entity before `lost_until_ms` may be missing.
    """
    return b"%b %015d" % (stamp_of_view, lost_until_ms)


def lost_until_of(stamp_of_known: bytes) -> int | None:
    """Returns the time, in ms, before which speed tiles of a known entity may be missing; None if its key was not lost."""
    return int(stamp_of_known[_STAMP_LENGTH:]) if len(stamp_of_known) > _STAMP_LENGTH else None


def batch_end_of(stamp_of_view: bytes) -> int:
    """Returns the batch_end in a stamp, in ms."""
    return int(stamp_of_view[:15])


def _spread_tags(count: int) -> tuple[str, ...]:
    """Returns `count` hash tags whose slots are spread evenly over the slots of a cluster. Up to `count` primaries have at least one of them each."""
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < count:
        tags.setdefault(key_slot(str(number).encode()) * count // REDIS_CLUSTER_HASH_SLOTS, str(number))
        number += 1
    return tuple(tags[part] for part in sorted(tags))


#: The buckets of a cluster. A single server has one bucket, so that a request looks up all of its entities with one command.
_CLUSTER_BUCKETS = _spread_tags(16)


class Buckets:
    """The buckets that spread the `braid/` data of many entities over the servers of a cluster.

    Args:
        cluster: Whether the store is a cluster.
    """

    def __init__(self, cluster: bool) -> None:
        self.names = _CLUSTER_BUCKETS if cluster else ("0",)

    def known_keys(self, group: str, version: str) -> list[str]:
        """Returns the keys of the known entities of a version of a group, one per bucket."""
        return [f"braid/known/{group}/{version}/{{{name}}}" for name in self.names]

    def mark_keys(self, token: str) -> list[str]:
        """Returns the keys of the marks of a stream of tiles, one per bucket."""
        return [f"braid/marks/{token}/{{{name}}}" for name in self.names]

    def copies_keys(self, memory: str) -> list[str]:
        """Returns the keys of the events that a stream has seen, one per bucket."""
        return [f"braid/copies/{memory}/{{{name}}}" for name in self.names]

    def split(self, ids: Sequence[int | str]) -> Iterable[tuple[int, list[int]]]:
        """Returns pairs of the index of a bucket and the positions of its ids in `ids`."""
        if len(self.names) == 1:
            return [(0, list(range(len(ids))))] if ids else []
        places: dict[int, list[int]] = {}
        for position, entity_id in enumerate(ids):
            places.setdefault(zlib.crc32(str(entity_id).encode()) % len(self.names), []).append(position)
        return places.items()
