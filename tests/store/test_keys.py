"""The layout of keys: whatever a group is called, its entities meet nothing of the store's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from infra.embedded import health
from store.keys import GENERATION_KEY, PROGRESS_KEY, Buckets, batch_end_of, meta_key, notes_key, stamp

OWN = (
    PROGRESS_KEY, GENERATION_KEY, meta_key("g"), notes_key("alerts"), *Buckets(True).known_keys("g", "01234567"), *Buckets(False).mark_keys("t"),
)  # fmt: skip


@given(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.text())
def test_no_entity_of_any_group_has_a_key_of_the_stores_own(group: str, entity: str) -> None:
    assert f"{group}:{entity}" not in OWN


def test_all_keys_of_the_stores_own_have_a_slash_before_any_colon() -> None:
    for key in OWN:
        assert not re.match(r"[a-z][a-z0-9_]*:", key)


@pytest.mark.parametrize("primaries", [3, 5, 16])
def test_every_primary_of_a_cluster_has_a_bucket(primaries: int) -> None:
    slots = [key_slot(key.encode()) for key in Buckets(True).mark_keys("t")]
    assert {slot * primaries // REDIS_CLUSTER_HASH_SLOTS for slot in slots} == set(range(primaries))


@given(st.lists(st.integers() | st.text(), max_size=300))
def test_each_id_is_in_one_bucket(ids: list[int | str]) -> None:
    for cluster in (True, False):
        places = sorted(at for _, some in Buckets(cluster).split(ids) for at in some)
        assert places == list(range(len(ids)))


@given(*[st.integers(0, 10**14)] * 4)
def test_stamps_are_in_the_order_of_batch_end_and_building(end: int, built: int, other_end: int, other_built: int) -> None:
    assert (stamp(end, built) < stamp(other_end, other_built)) is ((end, built) < (other_end, other_built))
    assert batch_end_of(stamp(end, built)) == end


def test_the_supervisor_asks_for_the_progress_where_it_is_written() -> None:
    assert health.PROGRESS_KEY == PROGRESS_KEY
