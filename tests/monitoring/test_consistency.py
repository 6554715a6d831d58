"""What was served, held against the lake: nothing differs where nothing was late, and what differs has its reason.

Answers are made by serving's own code, from the real view and from tiles of the events that the test lets it see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.events import append_events
from batch.point_in_time import point_in_time
from batch.tiles import build_tiles, stale_days
from batch.view import build_view
from features.aggregations import Series
from features.declaration import FeatureGroup
from features.packed import decode_batch
from features.tiles import fold_tile_values, runs
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.errors import NotReadyError
from infra.policies import WhenStale
from infra.settings import Settings
from models.training_set import build_training_set
from monitoring.attribution import Answer, Arrivals, Reason, explain, values_at
from monitoring.consistency import ConsistencyReport, check_consistency
from monitoring.logged_training_set import logged_training_set
from monitoring.served import SCHEMA, TABLE
from serving.answer import Stale, feature_rows, served_features
from serving.served_log import served_record
from store.protocol import Parts
from tests.declarations import repurchase, user_events, user_features

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The time when the tests are collected. Their view is made later, by the clock of Delta's history, and well before Q.
NOW = time.time_ns() // 1_000_000
B = NOW - 2 * HOUR_MS
Q = NOW + 12 * HOUR_MS
EVENTS = """event_id STRING, user_id BIGINT, session_id STRING, event_type STRING, amount DECIMAL(18,6), event_timestamp TIMESTAMP,
    item_id STRING, properties MAP<STRING,STRING>, ts_ms BIGINT, arrival_ms BIGINT, origin STRING, kafka_partition INT,
    kafka_offset BIGINT, _order BIGINT"""


@dataclass(frozen=True)
class Event:
    """A purchase of 1.25 and some cents."""

    user: int
    ts_ms: int
    arrival_ms: int
    origin: str = "stream"

    @property
    def row(self) -> tuple[Any, ...]:
        from decimal import Decimal

        name, amount = f"{self.user}-{self.ts_ms}-{self.arrival_ms}", Decimal(125 + self.ts_ms % 50) / 100
        when = datetime.fromtimestamp(self.ts_ms / 1_000, UTC)
        return (name, self.user, "s", "PURCHASE", amount, when, None, None, self.ts_ms, self.arrival_ms, self.origin, 0, 0, 0)


def history(*users: int) -> list[Event]:
    return [Event(user, B - n * DAY_MS - user, NOW - 4 * HOUR_MS, "load") for user in users for n in range(1, 40, 3)]


def prompt(user: int, *instants_ms: int) -> list[Event]:
    """Events that arrive a second after they happen."""
    return [Event(user, ts_ms, ts_ms + 1_000) for ts_ms in instants_ms]


#: What the stream brings of the users of each test, all in one append.
PUNCTUAL = {user: prompt(user, B, B + 1, B + HOUR_MS, Q - 4 * MINUTE_MS - user, Q - 1, Q) for user in range(10)}
ON_THEIR_WAY = prompt(20, B + 5, Q - 40_000, Q - 3_000)
EARLY, AFTER_THE_ANSWER = prompt(21, B + 5), [Event(21, Q - 1_000, Q + 60_000), Event(40, Q - 1_000, Q + 60_000)]
# At the arrival of the event of user 41 the watermark passes that of user 22, but not that of user 23.
AROUND_THE_WATERMARK = [
    Event(41, B + 40 * MINUTE_MS, B + 41 * MINUTE_MS), Event(22, B + 29 * MINUTE_MS, B + 42 * MINUTE_MS),
    Event(23, B + 31 * MINUTE_MS, B + 42 * MINUTE_MS),
]  # fmt: skip
AFTER_THE_VIEW = Q - 30 * MINUTE_MS
WAITING = [Event(24, B - DAY_MS, AFTER_THE_VIEW), Event(25, B - DAY_MS, AFTER_THE_VIEW, "load")]
NEW_AND_WAITING = [Event(42, B - DAY_MS, AFTER_THE_VIEW), Event(43, B - DAY_MS, AFTER_THE_VIEW)]  # of users that no view has
LOST = Event(26, B - DAY_MS, NOW - 3 * HOUR_MS)  # was there long before the view, and is not in it
DEGRADED, PARTLY_DEGRADED = prompt(27, B + 5), prompt(29, B + 5)
LOGGED = {user: prompt(user, B + user, Q - 50 * MINUTE_MS + user, Q - 1) for user in range(30, 36)}
WEEK_LATER, BUYERS = Q + 7 * DAY_MS, {user for user in LOGGED if user % 2}
STREAMED = [
    *(event for events in (PUNCTUAL | LOGGED).values() for event in events), *ON_THEIR_WAY, *EARLY, *AFTER_THE_ANSWER, *AROUND_THE_WATERMARK, *WAITING, *NEW_AND_WAITING, LOST,
    *DEGRADED, *PARTLY_DEGRADED, *prompt(0, WEEK_LATER), *(Event(user, WEEK_LATER - 1, WEEK_LATER) for user in sorted(BUYERS)),
]  # fmt: skip


class Shop:
    """A lake, a view of it, events that came after it, and a log of what was served."""

    def __init__(self, spark: SparkSession, settings: Settings, loaded: Iterable[Event]) -> None:
        self.spark, self.settings = spark, settings
        self.append(loaded)
        build_tiles(spark, settings, user_features, stale_days(spark, settings, user_features))
        build_view(spark, settings, user_features, B)
        view = spark.read.format("delta").load(settings.table("view_user_features")).select("entity", "packed").collect()
        self.append(STREAMED)
        self.views = {row["entity"]: decode_batch(row["packed"], user_features.fingerprint) for row in view}
        self.session = spark.sql("SELECT xxhash64('s') AS h").collect()[0]["h"]
        self.records: list[dict[str, Any]] = []

    def append(self, events: Iterable[Event]) -> None:
        append_events(self.spark, self.settings, user_events, self.spark.createDataFrame([one.row for one in events], EVENTS))

    def serve(
        self, user: int, seen: list[Event], q_ms: int = Q, served_at_ms: int | None = None, spoil: Callable[[list], list] | None = None,
        **how: Any,
    ) -> None:  # fmt: skip
        """An answer about a user whose tiles hold the seen events."""
        parts = Parts(self.views.get(user), self._tiles(seen))
        served = served_features(user_features, parts, q_ms, B, **how)
        if spoil:
            served.merged.values[:] = spoil(served.merged.values)
        provenance = feature_rows(user_features, [user], [served], q_ms)[0].provenance
        record = served_record(user_features, user, served, provenance, q_ms, q_ms if served_at_ms is None else served_at_ms)
        self.records.append({**record, "features": json.dumps(record["features"])})

    def _tiles(self, seen: list[Event]) -> list[Any]:
        rows = [event.row for event in sorted(seen, key=lambda one: one.ts_ms)]
        ts_ms = np.array([row[8] for row in rows], dtype=np.int64)
        n = len(ts_ms)
        micros = np.array([int(row[4] * 1_000_000) for row in rows], dtype=np.int64)
        found = {"1": np.ones(n, np.int64), "amount": micros, "session_id": np.full(n, self.session)}
        inputs = [
            Series(
                ts_ms, next((v for name, v in found.items() if name in one.sql and name != "1"), found["1"]), np.ones(n, dtype=bool)
            )
            for one in user_features.inputs
        ]
        return fold_tile_values(user_features, inputs, *runs(ts_ms // user_features.tile_ms)) if n else []

    def log(self) -> None:
        """Writes what was served."""
        frame = self.spark.createDataFrame([tuple(r.get(name) for name in NAMES) for r in self.records], SCHEMA)
        frame.write.format("delta").mode("overwrite").save(self.settings.table(TABLE))

    def check(self, **how: Any) -> ConsistencyReport:
        self.log()
        return check_consistency(self.spark, self.settings, user_features, Q + DAY_MS, **how)


NAMES = [
    "served_id", "request_id", "group", "fingerprint", "entity", "q_ms", "served_at_ms", "features_at_ms", "features", "batch_end_ms", "newest_event_ms",
    "tiles_merged", "degraded", "degraded_features", "experiment", "variant", "model", "model_version", "prediction", "shadows",
    "answer_id", "input", "request", "outcome_id", "predictions", "shadow_predictions", "degraded_inputs",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One lake for all: each test has users of its own."""
    home = tmp_path_factory.mktemp("consistency")
    return Shop(
        spark, settings.model_copy(update={"lake_uri": str(home / "lake"), "home": home}), history(*range(8), *range(20, 40))
    )


@pytest.fixture
def shop(shared: Shop) -> Shop:
    """The shop with nothing served yet."""
    shared.records = []
    return shared


def reasons(report: ConsistencyReport) -> set[Reason]:
    return {reason for reason in Reason if report.count(reason)}


def test_without_lag_or_late_events_nothing_differs(shop: Shop) -> None:
    for user, events in PUNCTUAL.items():  # two are new to the batch
        for q_ms in (B, B + HOUR_MS + 1, Q):
            shop.serve(user, events, q_ms, Q)
        shop.serve(user, events, batch_only=True)
    shop.serve(99, [])  # nobody
    report = shop.check()
    assert report.answers == 41
    assert [one.cells for one in report.features] == [41] * 6
    assert reasons(report) == set(), report.examples
    assert set(report.table()["mismatch_rate"]) == {0.0}
    assert set(report.table()["smape"]) == {0.0}


def test_an_event_that_was_on_its_way_is_lag_and_only_within_the_bound(shop: Shop) -> None:
    shop.serve(20, ON_THEIR_WAY[:-1])
    shop.serve(20, ON_THEIR_WAY[:-2])
    report = shop.check(lag_ms=5_000)
    assert reasons(report) == {Reason.LAG, Reason.DEFECT}
    assert reasons(shop.check()) == {Reason.LAG}
    assert reasons(shop.check(limit=1)) == {Reason.LAG}
    example = report.examples[0]
    assert (example.entity, example.reason, example.q_ms) == (20, Reason.DEFECT, Q)
    assert report.features[0].mismatch_rate == 1.0
    assert report.features[0].smape == pytest.approx((2 * 1 / 3 + 2 * 2 / 2) / 2)


def test_an_event_that_arrives_after_the_answer_is_late_data(shop: Shop) -> None:
    shop.serve(21, EARLY)
    shop.serve(40, [])
    report = shop.check()
    assert reasons(report) == {Reason.LATE_DATA}
    by_name = {one.feature: one for one in report.features}
    assert by_name["avg_purchase_30d"].missing_rate == 0.5, "of user 40, who was not known yet"
    assert by_name["avg_purchase_30d"].extra_rate == 0.0


def test_what_the_watermark_has_passed_is_late_data_and_what_it_has_not_is_a_defect(shop: Shop) -> None:
    shop.serve(22, [])
    shop.serve(23, [])
    report = shop.check()
    assert reasons(report) == {Reason.LATE_DATA, Reason.DEFECT}
    assert {one.entity for one in report.examples if one.reason is Reason.DEFECT} == {23}
    assert report.examples[0].reason is Reason.DEFECT, "the alarm comes first"


def test_what_waits_for_the_next_batch_is_late_data_and_what_a_batch_has_lost_is_a_defect(shop: Shop) -> None:
    for user in (24, 25, 26):
        shop.serve(user, [])
    report = shop.check()
    assert {one.entity for one in report.examples if one.reason is Reason.DEFECT} == {26}
    assert {one.entity for one in report.examples if one.reason is Reason.LATE_DATA} == {24, 25}


def test_an_event_of_before_batch_end_that_the_stream_has_dropped_is_late_data_also_of_an_entity_without_a_view(shop: Shop) -> None:
    shop.serve(42, [])
    assert reasons(shop.check()) == {Reason.LATE_DATA}
    # As Kappa has answered, beside an answer of the time before the architecture was changed.
    shop.serve(43, [])
    shop.records[-1]["batch_end_ms"] = None
    assert reasons(shop.check()) == {Reason.LATE_DATA}


def test_an_answer_that_said_so_is_degraded_and_a_wrong_number_is_a_defect(shop: Shop) -> None:
    shop.serve(27, DEGRADED, stale=Stale(WhenStale.BATCH_ONLY, "stale"))  # which says of when its values are, so they are right
    shop.serve(27, DEGRADED, stale=Stale(WhenStale.DEFAULT, "stale"))
    shop.serve(27, DEGRADED, spoil=lambda values: [values[0], values[1], values[2], values[3] + 1, *values[4:]])
    report = shop.check()
    assert reasons(report) == {Reason.DEGRADED, Reason.DEFECT}
    assert report.defects == 1
    [defect] = [one for one in report.examples if one.reason is Reason.DEFECT]
    assert (defect.feature, defect.served - defect.right) == ("purchase_count_7d", 1)


def test_a_degraded_feature_excuses_no_other_one(shop: Shop) -> None:
    events = PARTLY_DEGRADED
    wrong = {"events_last_hour": 99, "purchase_count_7d": 999}
    spoil = lambda values: [wrong.get(name, value) for name, value in zip(user_features.feature_names, values, strict=True)]  # noqa: E731
    # Of the tiles since batch_end only those of the last minutes are there: the windows that begin before them are degraded.
    missing = {"complete_since_ms": Q - 30 * MINUTE_MS}
    for how in ({}, missing, {"stale": Stale(WhenStale.SERVE, "stale")}):
        shop.serve(29, events, spoil=spoil, **how)
    shop.records[1]["degraded_features"] = ["purchase_count_7d"]
    shop.serve(29, events, spoil=spoil)
    shop.records[-1].update(degraded=["the model lacks a feature"], degraded_features=[])
    shop.serve(29, events, spoil=spoil, **missing)
    shop.records[-1]["degraded_features"] = None  # as records had none
    report = shop.check()
    reasons_of = {one.feature: {reason: n for reason, n in one.reasons.items() if n} for one in report.features}
    assert reasons_of["events_last_hour"] == {Reason.DEFECT: 3, Reason.DEGRADED: 2}
    assert reasons_of["purchase_count_7d"] == {Reason.DEFECT: 2, Reason.DEGRADED: 3}
    # What is right but for the degraded feature has nothing to explain.
    shop.records = []
    shop.serve(29, events, spoil=lambda values: [values[0] + 1, *values[1:]])
    shop.records[-1].update(degraded=["missing"], degraded_features=["events_last_hour"])
    shop.serve(29, [], spoil=lambda values: [values[0] + 50, *values[1:]])  # lag, for the others
    shop.records[-1].update(degraded=["missing"], degraded_features=["events_last_hour"])
    report = shop.check(lag_ms=Q - B)
    assert reasons(report) == {Reason.DEGRADED, Reason.LAG}


def test_only_answers_that_can_be_judged_are(shop: Shop) -> None:
    shop.serve(28, [], q_ms=Q, served_at_ms=Q)
    shop.serve(28, [], q_ms=Q + 2 * DAY_MS - 3 * HOUR_MS, served_at_ms=Q + 5)
    shop.serve(28, [], q_ms=Q, served_at_ms=Q)
    shop.records[-1]["fingerprint"] = "0" * 16
    assert shop.check().answers == 1
    assert shop.check(since_ms=Q + 1).answers == 0


def test_a_logged_training_set_is_the_backfilled_one_cell_by_cell(shop: Shop) -> None:
    for user, events in LOGGED.items():
        shop.serve(user, events)
        shop.serve(user, [], served_at_ms=Q + 1)  # the first answer is the row
        shop.serve(user, events, batch_only=True)
        shop.serve(user, events, stale=Stale(WhenStale.SERVE, "stale"))
        shop.serve(user, events, q_ms=Q + 1)  # a week later its outcome is not known
    shop.serve(0, [], q_ms=Q)
    shop.records[-1]["fingerprint"] = "0" * 16
    shop.log()
    logged = logged_training_set(shop.spark, shop.settings, repurchase, WEEK_LATER)
    points = shop.spark.createDataFrame([(user, Q, B) for user in LOGGED], "entity BIGINT, q_ms BIGINT, batch_ms BIGINT")
    backfilled = point_in_time(shop.spark, shop.settings, user_features, points, {"": "q_ms", "batch_": "batch_ms"})
    features = [f"{prefix}{name}" for prefix in ("", "batch_") for name in user_features.feature_names]
    rows = {row["entity"]: row for row in logged.collect()}
    right = {row["entity"]: row for row in backfilled.collect()}
    assert {user: rows[user]["label"] for user in rows} == {user: int(user in BUYERS) for user in LOGGED}
    assert {user: [rows[user][name] for name in features] for user in rows} == {
        u: [right[u][name] for name in features] for u in LOGGED
    }
    assert (rows[30]["events_last_hour"], rows[30]["batch_events_last_hour"]) == (2, 0)
    build_training_set(shop.spark, shop.settings, repurchase, B)
    assert logged.dtypes == shop.spark.read.format("delta").load(shop.settings.table(repurchase.training_table)).dtypes


def test_where_nothing_was_served_yet_there_is_nothing_to_report(shared: Shop, lake: Settings) -> None:
    with pytest.raises(NotReadyError, match="no events"):
        check_consistency(shared.spark, lake, user_features, Q)
    elsewhere = FeatureGroup("elsewhere", "user_id", user_events, user_features.features)
    assert check_consistency(shared.spark, shared.settings, elsewhere, Q).answers == 0


def test_of_an_entity_with_many_events_a_lag_is_explained_and_what_cannot_be_tried_is_not_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An item of which an event arrives every two seconds, a second after it happened, around a batch; the answer lacks the last seconds."""
    served_at_ms, minutes = B + 10 * MINUTE_MS, MINUTE_MS
    ts_ms = np.arange(B - 20 * minutes, served_at_ms, 2_000)
    dropped = np.arange(len(ts_ms)) % 20 == 0  # each later than the watermark allows, by a time of its own
    behind_ms = np.where(dropped, 11 * minutes + np.arange(len(ts_ms)), -2_000)
    count = len(ts_ms)
    series = [Series(ts_ms, np.arange(count, dtype=np.int64), np.ones(count, dtype=bool)) for _ in user_features.inputs]
    events = Arrivals(series, ts_ms + 1_000, behind_ms, np.ones(count, dtype=bool))

    def reason_of(visible: Any) -> Reason:
        values = values_at(user_features, series, visible, served_at_ms)
        answer = Answer(served_at_ms, served_at_ms, B, (B - 50 * minutes, B + 8 * minutes), values)
        return explain(user_features, events, answer, 20_000, 10 * minutes)

    in_view = ts_ms < B
    for seconds in (3, 19):
        assert reason_of(in_view | (~dropped & (ts_ms + 1_000 < served_at_ms - seconds * 1_000))) is Reason.LAG
    monkeypatch.setattr("monitoring.attribution._TRIES", 500)
    assert reason_of(np.zeros(count, dtype=bool)) is Reason.UNDECIDED


moments = st.integers(0, 40)


@given(
    st.lists(st.tuples(moments, moments, st.integers(-5, 30), st.booleans()), max_size=12), moments, st.integers(30, 41), moments,
    st.integers(0, 20), st.integers(10, 30),
)  # fmt: skip
def test_whatever_lag_and_lateness_hide_is_explained(
    found: list[tuple[int, int, int, bool]], batch_end: int, stream_by: int, view_by: int, lateness: int, watermark: int
) -> None:
    """Minutes: what is seen by any such cuts is never called a defect."""
    found = sorted(found)
    ts_ms, arrival_ms, behind_ms = (np.array([one[i] for one in found], dtype=np.int64) * MINUTE_MS + B for i in range(3))
    behind_ms -= B
    streamed = np.array([one[3] for one in found], dtype=bool)
    n = len(found)
    inputs = [Series(ts_ms, np.arange(n, dtype=np.int64) * 1_000 + 7, np.ones(n, dtype=bool)) for _ in user_features.inputs]
    events = Arrivals(inputs, arrival_ms, behind_ms, streamed)
    served_at, end, q = B + 40 * MINUTE_MS, B + batch_end * MINUTE_MS, B + 41 * MINUTE_MS
    old = ts_ms < end
    in_view = old & (arrival_ms < B + view_by * MINUTE_MS)
    dropped = behind_ms >= max(watermark, watermark + lateness) * MINUTE_MS
    in_stream = streamed & (arrival_ms < B + stream_by * MINUTE_MS) & ~dropped
    visible = in_view | (in_stream & ~old) if in_view.any() else in_stream
    answer = Answer(q, served_at, end, (B, served_at), values_at(user_features, inputs, visible, q))
    assert explain(user_features, events, answer, 10 * MINUTE_MS, watermark * MINUTE_MS) is not Reason.DEFECT
