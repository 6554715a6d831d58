"""What an answer says in Kappa: exact at any age, by which architecture, and nothing about a time that its history has closed."""

from __future__ import annotations

import pytest

from features.history import decode_history, pack_history, roll
from features.merge import EVER_MS
from features.speed_value import pack_tile
from features.windows import DAY_MS
from serving.answer import feature_rows, served_features
from serving.contract import FeatureRow
from serving.encoding import encoded
from serving.errors import RefusalError
from store.protocol import ALWAYS_MS, NEVER_MS, Parts
from tests.declarations import user_features
from tests.pure import micros, tiles_of

TILE_MS = user_features.tile_ms
START_MS = 1_795_000_200_000
EVENTS = [
    {"event_id": str(n), "user_id": 1, "session_id": "s", "event_type": "PURCHASE", "amount": micros(1_000_000), "ts_ms": START_MS + n * TILE_MS}
    for n in range(3)
]  # fmt: skip


def parts() -> Parts:
    """Two tiles are in the history, the third is open."""
    first, second, third = tiles_of(user_features, EVENTS)
    closed = {tile.first_ms: pack_tile(user_features, tile.first_ms, tile) for tile in (first, second)}
    history = pack_history(user_features, roll(user_features, None, closed, START_MS + 2 * TILE_MS))
    return Parts(decode_history(history, user_features), (third,))


@pytest.mark.parametrize(("ahead_ms", "purchases"), [(3 * TILE_MS, 3), (6 * DAY_MS, 3), (40 * DAY_MS, 0)])
def test_an_answer_is_exact_at_any_age_and_names_its_architecture(ahead_ms: int, purchases: int) -> None:
    q_ms = START_MS + ahead_ms
    served = served_features(user_features, parts(), q_ms, EVER_MS, complete_since_ms=ALWAYS_MS)
    [row] = feature_rows(user_features, [1], [served], q_ms, "kappa")
    answer = FeatureRow.model_validate_json(encoded(row))
    assert answer.features["purchase_count_7d"] == purchases
    assert (answer.provenance.architecture, answer.provenance.batch_end) == ("kappa", None)
    assert (answer.provenance.degraded, answer.provenance.tiles_merged) == (False, 1)


def test_an_entity_without_a_history_is_new_and_until_the_stream_has_caught_up_nothing_is_exact() -> None:
    q_ms = START_MS + 3 * TILE_MS
    new = served_features(user_features, Parts(None, tiles_of(user_features, EVENTS)), q_ms, EVER_MS)
    assert (new.merged.values[0], new.merged.degraded) == (3, ())
    behind = served_features(user_features, parts(), q_ms, EVER_MS, complete_since_ms=NEVER_MS)
    assert behind.merged.degraded_features == list(range(len(user_features.features)))


def test_a_time_that_the_history_has_closed_is_refused() -> None:
    with pytest.raises(RefusalError, match=r"lies before the end of the entity's history, .*: the history already holds"):
        served_features(user_features, parts(), START_MS + 2 * TILE_MS - 1, EVER_MS)
