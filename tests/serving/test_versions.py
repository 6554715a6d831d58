"""A changed declaration: the older version is served until the newer one is published, and no value is ever taken for another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features.aggregations import Series
from features.declaration import FeatureGroup, ModelInput, count
from features.declaration.versions import group_text
from features.expressions import Expression
from features.merge import merge
from features.objective import Objective
from features.packed import FORMAT, TileValue, batch_field, encode
from features.sources import ColumnType
from features.speed_value import speed_field
from features.tiles import fold_tile_values
from features.vector import FeatureVector, RequestColumn
from features.view import build_view
from features.windows import HOUR_MS
from infra.settings import Settings
from models.formats import Scorer
from serving.answer import Served, ServedInput, prediction, served_features
from serving.model import LoadedModel
from serving.served_log import served_record
from store.clients import store
from store.keys import meta_key
from store.protocol import Parts, Reading
from store.reading import OTHER_VERSION, OnlineStore
from tests.declarations import user_features
from tests.payments import cards, terminals
from tests.pure import speed_value

BATCH_END = 1_780_000_200_000
USER = 5
OLD = user_features
NEW = replace(
    OLD,
    features=(
        count("views_1d", where="event_type = 'VIEW'", window="1d"), *OLD.features[:3],
        count("purchase_count_7d", where="event_type = 'PURCHASE'", window="14d"), *OLD.features[4:],
    ),
)  # fmt: skip


@pytest.fixture
def published(valkey: Settings) -> Iterator[Settings]:
    """OLD as a view of one purchase, with one speed tile; NEW has tiles already."""
    store(valkey).flushdb()
    put(valkey, OLD, purchases=1)
    say(valkey, OLD)
    store(valkey).hset(OLD.key(USER), mapping=speed(NEW, BATCH_END + 1))
    yield valkey
    store(valkey).flushdb()


def tile(group: FeatureGroup, *instants_ms: int) -> TileValue:
    """A speed tile of purchases."""
    ts_ms = np.array(instants_ms, dtype=np.int64)
    inputs = [Series(ts_ms, np.full(len(ts_ms), 2_000_000), np.ones(len(ts_ms), dtype=bool)) for _ in group.inputs]
    [value] = fold_tile_values(group, inputs, np.array([0]), np.array([len(ts_ms)]))
    return value


def speed(group: FeatureGroup, *instants_ms: int) -> dict[bytes, bytes]:
    """The field of that tile."""
    return {speed_field(group.fingerprint): speed_value(group, [tile(group, *instants_ms)])}


def put(settings: Settings, group: FeatureGroup, purchases: int) -> None:
    past = tile(group, *(BATCH_END - HOUR_MS + n for n in range(purchases)))
    start = past.first_ms // 300_000 * 300_000
    view = build_view(group, BATCH_END, [start], [[partial] for partial in past.partials], past.last_ms)
    store(settings).hset(group.key(USER), mapping={batch_field(group.fingerprint): encode(view), **speed(group, BATCH_END + 1)})


def say(settings: Settings, group: FeatureGroup, written: int = FORMAT, text: str | None = None) -> None:
    meta = {
        "batch_end_ms": BATCH_END,
        "fingerprint": group.fingerprint,
        "format": written,
        "declaration": text or group_text(group),
    }
    store(settings).hset(meta_key(group.name), mapping=meta)


def read(settings: Settings, declared: FeatureGroup) -> Reading:
    async def ask() -> Reading:
        online = OnlineStore(settings)
        reading = await online.read(declared, [USER])
        await online.close()
        return reading

    return asyncio.run(ask())


def purchases_7d(reading: Reading) -> int:
    [parts] = reading.parts
    merged = merge(reading.group, parts.batch, parts.tiles, BATCH_END + 2, reading.batch_end_ms)
    return int(merged.values[reading.group.feature_names.index("purchase_count_7d")])  # type: ignore[arg-type]


def test_the_older_version_is_served_whole_until_the_newer_one_is_published(published: Settings) -> None:
    before = read(published, declared=NEW)
    assert before.group == OLD
    assert (before.batch_end_ms, before.parts[0].faults) == (BATCH_END, ())
    assert purchases_7d(before) == 2, "its own view and its own tile, and none of the newer version's"
    put(published, NEW, purchases=3)
    assert read(published, declared=NEW).group == OLD, "what is written is not yet published"
    say(published, NEW)
    after = read(published, declared=NEW)
    assert after.group == NEW
    assert purchases_7d(after) == 4
    assert after.parts[0].faults == ()


def test_going_back_to_the_older_version_serves_it_from_its_own_values(published: Settings) -> None:
    put(published, NEW, purchases=3)
    say(published, NEW)
    assert read(published, declared=OLD).group == NEW, "a process with the older declaration serves what is published"
    say(published, OLD)
    assert purchases_7d(read(published, declared=OLD)) == 2


@pytest.mark.parametrize("spoil", [{"text": "{}"}, {"written": FORMAT - 1}], ids=["another declaration", "another format"])
def test_what_this_code_cannot_read_is_refused_by_name_and_not_taken_for_empty(
    published: Settings, spoil: dict[str, object]
) -> None:
    say(published, OLD, **spoil)  # type: ignore[arg-type]
    declared = NEW if "text" in spoil else OLD
    reading = read(published, declared)
    assert reading.group == declared
    assert OTHER_VERSION in reading.parts[0].faults
    assert reading.batch_end_ms is None


class Booster:
    """Gives back what it is given."""

    def predict(self, rows: object, **_options: object) -> list[float]:
        self.given = np.asarray(rows)[0].tolist()
        return [0.5]


def loaded(booster: Booster, trained: FeatureGroup) -> LoadedModel:
    vector = FeatureVector((trained.on("user_id"),))
    return LoadedModel("m", "1", Scorer(vector.names, Objective.BINARY, (), booster), vector)


def predicted(served: FeatureGroup, features: Served, model: LoadedModel) -> Any:
    return prediction([ServedInput(served.on("user_id"), USER, features)], {}, BATCH_END + 2, model, "champion")


@pytest.mark.parametrize(("trained", "served"), [(OLD, NEW), (NEW, OLD)], ids=["older model", "newer model"])
def test_a_model_is_given_its_features_by_name_and_defaults_for_what_means_something_else(
    published: Settings, trained: FeatureGroup, served: FeatureGroup
) -> None:
    put(published, served, purchases=3)
    say(published, served)
    reading, booster = read(published, served), Booster()
    found = served_features(reading.group, reading.parts[0], BATCH_END + 2, reading.batch_end_ms)
    answer = predicted(served, found, loaded(booster, trained))
    right = dict(zip(served.feature_names, found.merged.values, strict=True))
    assert list(answer.features_used) == list(trained.model_names)
    assert list(answer.features_used.values()) == booster.given
    lost = {"purchase_count_7d", "views_1d"} & set(trained.model_names)
    for name, value in answer.features_used.items():
        assert value == (0.0 if name in lost else right[name]), name
    [reason] = answer.provenance.degraded_reasons
    assert all(name in reason for name in lost)
    assert set(answer.provenance.degraded_features) == lost, "every other value is exact"
    record = served_record(served, USER, found, answer.provenance, BATCH_END + 2, BATCH_END + 3)
    assert record["degraded_features"] == [], "the log has the features as they were served, of which none is inexact"


def test_what_a_model_of_several_inputs_lacks_is_named_by_input_and_as_in_its_features() -> None:
    entries = [cards.on(), terminals.on("terminal_id", prefix="terminal_")]
    others = [
        replace(terminals, features=(count("payments_1h", window="2h"), terminals.features[1])),
        replace(cards, features=cards.features[:1]),
    ]

    def asked(*trained: ModelInput) -> Any:
        vector = FeatureVector(trained)
        model = LoadedModel("m", "1", Scorer(vector.names, Objective.BINARY, (), Booster()), vector)
        inputs = [
            ServedInput(entry, USER, served_features(entry.group, Parts(), BATCH_END, BATCH_END - 1))
            for entry in entries[: len(trained)]
        ]
        answer = prediction(inputs, {}, BATCH_END, model, "champion")
        assert set(answer.provenance.degraded_features) <= set(answer.features_used)
        return answer

    exact = asked(*entries)
    assert (exact.provenance.degraded, exact.provenance.degraded_features) == (False, [])
    changed = asked(cards.on(), others[0].on("terminal_id", prefix="terminal_"))
    assert changed.provenance.degraded_features == ["terminal_payments_1h"]
    assert [list(its.degraded_features) for its in changed.inputs.values()] == [[], ["payments_1h"]]
    for answer in (
        asked(terminals.on("terminal_id", prefix="terminal_")),
        asked(cards.on(), terminals.on("other_id", prefix="terminal_")),
    ):
        assert answer.provenance.degraded_features == ["terminal_payments_1h", "terminal_payments_1d"], (
            "an input that is not served"
        )
    assert not asked(others[1].on()).provenance.degraded


@pytest.mark.parametrize("prefix", ["", "card_"])
def test_a_derived_feature_is_degraded_with_the_features_that_it_reads(prefix: str) -> None:
    entry = cards.on(prefix=prefix)
    names = [f"{prefix}{name}" for name in cards.feature_names]
    derived = Expression("of_first", f"{names[0]} + 1"), Expression("of_request", "amount + 1")
    vector = FeatureVector((entry,), (RequestColumn("amount", ColumnType.DECIMAL),), derived)
    model = LoadedModel("m", "1", Scorer(vector.names, Objective.BINARY, (), Booster()), vector)

    def asked(*faults: str) -> Any:
        parts = Parts(faults=faults)
        served = ServedInput(entry, USER, served_features(cards, parts, BATCH_END, BATCH_END - 1))
        return prediction([served], {"amount": 1}, BATCH_END, model, "champion")

    answer = asked("the store is late")
    assert list(answer.provenance.degraded_features) == [*names, "of_first"]
    assert list(answer.provenance.missing) == names
    assert list(asked().provenance.degraded_features) == []


def test_of_a_model_whose_declaration_cannot_be_read_no_feature_counts_as_exact(published: Settings) -> None:
    reading = read(published, OLD)
    features = served_features(reading.group, reading.parts[0], BATCH_END + 2, reading.batch_end_ms)
    model = replace(
        loaded(Booster(), OLD), fault="the model was trained on another version of the declaration", unknown_meaning=True
    )
    provenance = predicted(OLD, features, model).provenance
    assert provenance.degraded_reasons == [model.fault]
    assert list(provenance.degraded_features) == list(OLD.model_names)


def test_a_model_whose_features_all_mean_the_same_is_exact(published: Settings) -> None:
    more = replace(OLD, features=(*OLD.features, count("views_1d", where="event_type = 'VIEW'", window="1d")))
    put(published, more, purchases=1)
    say(published, more)
    reading = read(published, more)
    found = served_features(reading.group, reading.parts[0], BATCH_END + 2, reading.batch_end_ms)
    answer = predicted(more, found, loaded(Booster(), OLD))
    assert answer.provenance.degraded is False
    assert answer.features_used["purchase_count_7d"] == 2
