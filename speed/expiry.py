"""Up to which event time speed tiles may have expired.

The online store drops a tile `Settings.tiles_kept_seconds` after its last write. A tile whose last write was before an instant holds no event later than the newest one that the
stream had read by then. So this module keeps the newest event of each hour in the online store. `speed.completeness` moves `complete_since_ms` of the tiles behind the
newest event of the hour whose writes expire now. An answer from an older batch view is marked then, also one about a past time.
"""

from __future__ import annotations

from collections.abc import Iterable

from features.declaration import FeatureGroup
from features.windows import HOUR_MS
from infra.settings import Settings
from store.protocol import Store

_NOTES = "newest-events"
_WRITE_MS = 60_000


class ExpiredTiles:
    """Follows which tiles of the groups of one source may have expired.

    Args:
        store: The online store.
        settings: How long tiles are kept.
        source: The name of the source.
        groups: Its groups.
    """

    def __init__(self, store: Store, settings: Settings, source: str, groups: Iterable[FeatureGroup]) -> None:
        self._store, self._settings, self._source = store, settings, source
        self._kept_hours = max(map(self._kept_ms, groups), default=0) // HOUR_MS + 1
        note = store.notes(_NOTES).get(source, {})
        self._newest_ms = {int(hour): newest_ms for hour, newest_ms in note.items()}
        self._written_ms = 0

    def before_ms(self, group: FeatureGroup, newest_ms: int | None, now_ms: int) -> int | None:
        """The event time before which tiles of a group may have expired; None if none may have.

        Args:
            group: The group.
            newest_ms: The newest event that the stream has read.
            now_ms: The time.
        """
        if self._settings.kappa:  # the events of tiles that are dropped are in the histories
            return None
        hour = now_ms // HOUR_MS
        if newest_ms is not None and self._newest_ms.get(hour) != newest_ms and now_ms - self._written_ms >= _WRITE_MS:
            self._write(hour, newest_ms)
            self._written_ms = now_ms
        expired = [then for then in self._newest_ms if then <= (now_ms - self._kept_ms(group)) // HOUR_MS]
        return self._newest_ms[max(expired)] + 1 if expired else None

    def _kept_ms(self, group: FeatureGroup) -> int:
        return self._settings.tiles_kept_seconds(group.buffer_ms) * 1_000

    def _write(self, hour: int, newest_ms: int) -> None:
        self._newest_ms[hour] = newest_ms
        # The last of the hours that are not needed any more stands for those before it.
        first = max((then for then in self._newest_ms if then <= hour - self._kept_hours), default=0)
        self._newest_ms = {then: ms for then, ms in self._newest_ms.items() if then >= first}
        self._store.note(_NOTES, self._source, {str(then): ms for then, ms in self._newest_ms.items()})
