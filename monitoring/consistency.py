"""The consistency check: compares each served answer with the features at its time, recomputed from the lake.

Reads `served_features`, the source's events table and the Delta history of the group's view. Reports per feature how many cells
differ, and the reason for each difference. Lag and late events explain most differences. If the answer names a feature as degraded, a
difference of this feature has the reason DEGRADED; the differences of the answer's other features still need a reason. The reason DEFECT
means that the layers compute different values from the same events; the asset check `no_defects` then fails. UNDECIDED means that the entity has too
many events to try what may have hidden which of them; the check then warns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from batch.events import require_events
from batch.partials import numpy_of, series_of
from batch.point_in_time import point_in_time
from features.declaration import FeatureGroup
from features.windows import MINUTE_MS
from infra.settings import Settings
from monitoring.arrivals import arrivals_of, made_between, views_made
from monitoring.attribution import Answer, Arrivals, Reason, agree, explain
from monitoring.served import served_of

#: The largest number of answers in one check.
LIMIT = 20_000
#: The longest allowed time from an event's arrival until the event is visible in answers.
LAG_MS = MINUTE_MS
#: The largest number of differing cells in a report.
EXAMPLES = 20


@dataclass(frozen=True)
class FeatureConsistency:
    """The figures of one feature. A cell is one value of one answer.

    Attributes:
        feature: The name of the feature.
        cells: How many cells were compared.
        mismatch_rate: The share of cells that differ.
        missing_rate: The share of cells that were served without a value although the right value exists.
        extra_rate: The share of cells that were served with a value although the right value is null.
        smape: The symmetric mean absolute percentage error, 0 to 2, of the cells in which both values are numbers; None without such cells.
        reasons: How many cells differ, by reason.
    """

    feature: str
    cells: int
    mismatch_rate: float
    missing_rate: float
    extra_rate: float
    smape: float | None
    reasons: Mapping[Reason, int]


@dataclass(frozen=True)
class Mismatch:
    """A cell that differs.

    Attributes:
        entity: The entity of the answer.
        feature: The name of the feature.
        q_ms: The time as of which the request asked for the features, in ms since 1970.
        served_at_ms: The time of the answer, in ms since 1970.
        served: The value that was served.
        right: The recomputed value.
        reason: Why the two values differ.
    """

    entity: int | str
    feature: str
    q_ms: int
    served_at_ms: int
    served: Any
    right: Any
    reason: Reason


@dataclass(frozen=True)
class ConsistencyReport:
    """The result of a check.

    Attributes:
        group: The name of the group.
        answers: How many answers were checked.
        features: The figures of each feature.
        examples: Some of the cells that differ, defects first.
    """

    group: str
    answers: int
    features: tuple[FeatureConsistency, ...]
    examples: tuple[Mismatch, ...]

    def count(self, reason: Reason) -> int:
        """Returns the number of cells that differ for a reason."""
        return sum(feature.reasons[reason] for feature in self.features)

    @property
    def defects(self) -> int:
        """The number of cells that differ without an explanation."""
        return self.count(Reason.DEFECT)

    def table(self) -> pd.DataFrame:
        """Returns a table with a row per feature, for reports and plots."""
        rows = [{**asdict(feature), **{str(reason): feature.reasons[reason] for reason in Reason}} for feature in self.features]
        return pd.DataFrame(rows).drop(columns="reasons")


def check_consistency(
    spark: SparkSession,
    settings: Settings,
    group: FeatureGroup,
    known_until_ms: int,
    since_ms: int | None = None,
    limit: int = LIMIT,
    lag_ms: int = LAG_MS,
) -> ConsistencyReport:
    """Compares served answers with the features recomputed from the lake.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        group: The declaration of the group. Answers of other versions of the declaration are left out.
        known_until_ms: The instant up to which all events are in the lake. Answers about later times are left out.
        since_ms: The earliest time of an answer that is checked; None for all answers.
        limit: The largest number of answers to check. If there are more, a pseudo-random sample is checked, which is the same in each run.
        lag_ms: The longest allowed time from an event's arrival until the event is visible in answers.

    Raises:
        NotReadyError: There are no events.
    """
    require_events(spark, settings, group.source)
    served = served_of(spark, settings, group).where(
        (F.col("fingerprint") == group.fingerprint) & (F.col("q_ms") <= known_until_ms)
    )
    if since_ms is not None:
        served = served.where(F.col("served_at_ms") >= since_ms)
    columns = (
        "served_id", "entity", "q_ms", "served_at_ms", "features_at_ms", "batch_end_ms", "degraded", "degraded_features", "features",
    )  # fmt: skip
    rows = served.orderBy(F.xxhash64("served_id")).limit(limit).select(*columns).toArrow()
    if not rows.num_rows:
        return judge(group, [], [], {})
    # The names of features never begin with an underscore, so these columns cannot collide with a feature.
    asked = spark.createDataFrame(rows.select(["served_id", "entity", "features_at_ms"])).toDF("_served_id", "entity", "_at_ms")
    right = point_in_time(spark, settings, group, asked, {"": "_at_ms"}).toArrow().to_pylist()
    by_id = {row["_served_id"]: [row[name] for name in group.feature_names] for row in right}
    answers = [{**row, "features": _values(group, row["features"]), "degraded": _degraded(group, row)} for row in rows.to_pylist()]
    rights = [by_id[answer["served_id"]] for answer in answers]
    differing = [
        answer
        for answer, right_values in zip(answers, rights, strict=True)
        if not agree(answer["features"], right_values, answer["degraded"])
    ]
    return judge(group, answers, rights, _reasons(spark, settings, group, differing, lag_ms))


def judge(
    group: FeatureGroup, answers: Sequence[Mapping[str, Any]], rights: Sequence[Sequence[Any]], reasons: Mapping[str, Reason]
) -> ConsistencyReport:
    """Returns the report on answers and their recomputed values.

    Args:
        group: The declaration of the group.
        answers: Mappings with served_id, entity, q_ms, served_at_ms, features (a list with one value per feature of the group), and
            degraded (the indices of the features that the answer names as degraded).
        rights: The recomputed values of each answer, in the same order.
        reasons: served_id → reason, for each answer that differs in a feature that is not degraded.
    """
    features, mismatches = [], []
    for index, name in enumerate(group.feature_names):
        cells = [(answer["features"][index], right[index], answer) for answer, right in zip(answers, rights, strict=True)]
        wrong = [
            (served, right, answer, Reason.DEGRADED if index in answer["degraded"] else reasons[answer["served_id"]])
            for served, right, answer in cells
            if served != right
        ]
        mismatches += [
            Mismatch(answer["entity"], name, answer["q_ms"], answer["served_at_ms"], served, right, reason)
            for served, right, answer, reason in wrong
        ]
        share = 1 / max(1, len(cells))
        features.append(
            FeatureConsistency(
                feature=name,
                cells=len(cells),
                mismatch_rate=len(wrong) * share,
                missing_rate=sum(served is None for served, *_ in wrong) * share,
                extra_rate=sum(right is None for _, right, *_ in wrong) * share,
                smape=_smape((served, right) for served, right, _ in cells),
                reasons=Counter(reason for *_, reason in wrong),
            )
        )
    mismatches.sort(key=lambda mismatch: (mismatch.reason is not Reason.DEFECT, mismatch.reason))
    return ConsistencyReport(group.name, len(answers), tuple(features), tuple(mismatches[:EXAMPLES]))


def _smape(cells: Iterable[tuple[Any, Any]]) -> float | None:
    errors = [
        2 * abs(served - right) / (abs(served) + abs(right)) if served != right else 0.0
        for served, right in cells
        if isinstance(served, int | float) and isinstance(right, int | float)
    ]
    return sum(errors) / len(errors) if errors else None


def _values(group: FeatureGroup, features: str) -> list[Any]:
    value_of = json.loads(features)
    return [value_of[name] for name in group.feature_names]


def _degraded(group: FeatureGroup, row: Mapping[str, Any]) -> frozenset[int]:
    """Returns the indices of the degraded features of a record; all indices if the record is degraded but does not name the features."""
    names = row["degraded_features"]
    if names is None:
        names = group.feature_names if row["degraded"] else ()
    return frozenset(map(group.feature_names.index, names))


def _reasons(
    spark: SparkSession, settings: Settings, group: FeatureGroup, differing: Sequence[Mapping[str, Any]], lag_ms: int
) -> dict[str, Reason]:
    """Returns served_id → reason, for answers that differ from the recomputed features in a feature that is not degraded."""
    if not differing:
        return {}
    ends_ms = [answer["batch_end_ms"] for answer in differing if answer["batch_end_ms"] is not None]
    views = views_made(spark, settings, group, min(ends_ms)) if ends_ms else {}
    # An answer without a batch_end has all its events from the stream.
    live_from_ms = min(ends_ms) if len(ends_ms) == len(differing) else 0
    entity = group.entity_type.value
    answers = spark.createDataFrame(
        [
            (
                answer["served_id"],
                answer["entity"],
                answer["features_at_ms"],
                answer["served_at_ms"],
                answer["batch_end_ms"],
                *made_between(views.get(answer["batch_end_ms"], []), answer["served_at_ms"]),
                json.dumps(answer["features"]),
                sorted(answer["degraded"]),
            )
            for answer in differing
        ],
        f"served_id STRING, entity {entity}, at_ms BIGINT, served_at_ms BIGINT, batch_end_ms BIGINT, made_after_ms BIGINT, "
        "made_before_ms BIGINT, features STRING, degraded ARRAY<INT>",
    )
    events = arrivals_of(spark, settings, group, answers.select("entity").distinct(), live_from_ms)
    kernel = _kernel(group, lag_ms, settings.watermark_seconds * 1_000)
    explained = answers.groupBy("entity").cogroup(events.groupBy("entity")).applyInArrow(kernel, "served_id STRING, reason STRING")
    return {row["served_id"]: Reason(row["reason"]) for row in explained.collect()}


def _kernel(group: FeatureGroup, lag_ms: int, watermark_ms: int) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Returns the function that explains the answers about one entity by the entity's events. Spark's workers call it."""

    def kernel(answers: pa.Table, events: pa.Table) -> pa.Table:
        events = events.sort_by("ts_ms")
        arrivals = Arrivals(
            inputs=series_of(events, group),
            arrival_ms=numpy_of(events["arrival_ms"]),
            behind_ms=numpy_of(events["behind_ms"]),
            streamed=np.asarray(events["streamed"].to_pylist(), dtype=bool),
        )
        reasons = []
        for row in answers.to_pylist():
            answer = Answer(
                at_ms=row["at_ms"],
                served_at_ms=row["served_at_ms"],
                batch_end_ms=row["batch_end_ms"],
                view_ms=(row["made_after_ms"], row["made_before_ms"]),
                values=json.loads(row["features"]),
                degraded=frozenset(row["degraded"]),
            )
            reasons.append(str(explain(group, arrivals, answer, lag_ms, watermark_ms)))
        return pa.table({"served_id": answers["served_id"], "reason": pa.array(reasons)})

    return kernel
