"""The check of what was served: each answer beside the features at its time, recomputed from the lake.

Reads `served_features`, `events` and the history of the group's view; gives per feature how many cells differ, and for each of them
a reason. Without lag and late events there is none; a DEFECT is the alarm: the layers do not mean the same.
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
from monitoring.attribution import Answer, Arrivals, Reason, explain
from monitoring.served import served_of

#: Answers that are checked at once.
LIMIT = 20_000
#: How long an event that has arrived may take to be visible before that is a defect.
LAG_MS = MINUTE_MS
EXAMPLES = 20


@dataclass(frozen=True)
class FeatureConsistency:
    """One feature.

    Attributes:
        feature: Its name.
        cells: The values that were compared.
        mismatch_rate: The share of them that differ.
        missing_rate: The share that had no value where there is one.
        extra_rate: The share that had a value where there is none.
        smape: The symmetric mean absolute percentage error of those with both, 0 to 2; None where there are no numbers.
        reasons: The cells that differ, by reason.
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
    """A cell that differs: whose, which, asked and served when, what was served, what is right, and why."""

    entity: int | str
    feature: str
    q_ms: int
    served_at_ms: int
    served: Any
    right: Any
    reason: Reason


@dataclass(frozen=True)
class ConsistencyReport:
    """What was found: the answers checked, each feature's figures, and some of the cells that differ, defects first."""

    group: str
    answers: int
    features: tuple[FeatureConsistency, ...]
    examples: tuple[Mismatch, ...]

    def count(self, reason: Reason) -> int:
        """Cells that differ for a reason."""
        return sum(one.reasons[reason] for one in self.features)

    @property
    def defects(self) -> int:
        """Cells that differ without an explanation."""
        return self.count(Reason.DEFECT)

    def table(self) -> pd.DataFrame:
        """A row per feature, for people and plots."""
        rows = [{**asdict(one), **{str(reason): one.reasons[reason] for reason in Reason}} for one in self.features]
        return pd.DataFrame(rows).drop(columns="reasons")


def check_consistency(
    spark: SparkSession, settings: Settings, group: FeatureGroup, known_until_ms: int, since_ms: int | None = None,
    limit: int = LIMIT, lag_ms: int = LAG_MS,
) -> ConsistencyReport:  # fmt: skip
    """Compares what was served with what is right.

    Args:
        spark: The session.
        settings: Where the lake is.
        group: The declaration. Answers of another version of it are left out.
        known_until_ms: Up to when all events are in the lake: a later question cannot be checked yet.
        since_ms: Only what was served from then on.
        limit: More answers are sampled, the same ones each time.
        lag_ms: How long an event may take to be visible.

    Raises:
        NotReadyError: There are no events.
    """
    require_events(spark, settings, group.source)
    served = served_of(spark, settings, group).where(
        (F.col("fingerprint") == group.fingerprint) & (F.col("q_ms") <= known_until_ms)
    )
    if since_ms is not None:
        served = served.where(F.col("served_at_ms") >= since_ms)
    columns = ("served_id", "entity", "q_ms", "served_at_ms", "features_at_ms", "batch_end_ms", "degraded", "features")
    rows = served.orderBy(F.xxhash64("served_id")).limit(limit).select(*columns).toArrow()
    if not rows.num_rows:
        return judge(group, [], [], {})
    # A feature cannot have a name that begins with an underscore.
    asked = spark.createDataFrame(rows.select(["served_id", "entity", "features_at_ms"])).toDF("_served_id", "entity", "_at_ms")
    right = point_in_time(spark, settings, group, asked, {"": "_at_ms"}).toArrow().to_pylist()
    by_id = {row["_served_id"]: [row[name] for name in group.feature_names] for row in right}
    answers = [{**row, "features": _values(group, row["features"])} for row in rows.to_pylist()]
    rights = [by_id[answer["served_id"]] for answer in answers]
    differ = [answer for answer, one in zip(answers, rights, strict=True) if answer["features"] != one]
    return judge(group, answers, rights, _reasons(spark, settings, group, differ, lag_ms))


def judge(
    group: FeatureGroup, answers: Sequence[Mapping[str, Any]], rights: Sequence[Sequence[Any]], reasons: Mapping[str, Reason]
) -> ConsistencyReport:
    """The report.

    Args:
        group: The declaration.
        answers: served_id, entity, q_ms, served_at_ms, features (one per feature of the group).
        rights: What is right for each.
        reasons: Of those that differ, by served_id.
    """
    features, mismatches = [], []
    for index, name in enumerate(group.feature_names):
        cells = [(answer["features"][index], right[index], answer) for answer, right in zip(answers, rights, strict=True)]
        wrong = [(served, right, answer) for served, right, answer in cells if served != right]
        mismatches += [
            Mismatch(one["entity"], name, one["q_ms"], one["served_at_ms"], served, right, reasons[one["served_id"]])
            for served, right, one in wrong
        ]
        share = 1 / max(1, len(cells))
        features.append(
            FeatureConsistency(
                name, len(cells), len(wrong) * share, sum(served is None for served, _, _ in wrong) * share,
                sum(right is None for _, right, _ in wrong) * share, _smape((served, right) for served, right, _ in cells),
                Counter(reasons[one["served_id"]] for _, _, one in wrong),
            )
        )  # fmt: skip
    mismatches.sort(key=lambda one: (one.reason is not Reason.DEFECT, one.reason))
    return ConsistencyReport(group.name, len(answers), tuple(features), tuple(mismatches[:EXAMPLES]))


def _smape(cells: Iterable[tuple[Any, Any]]) -> float | None:
    errors = [
        2 * abs(served - right) / (abs(served) + abs(right)) if served != right else 0.0
        for served, right in cells
        if isinstance(served, int | float) and isinstance(right, int | float)
    ]
    return sum(errors) / len(errors) if errors else None


def _values(group: FeatureGroup, features: str) -> list[Any]:
    found = json.loads(features)
    return [found[name] for name in group.feature_names]


def _reasons(
    spark: SparkSession, settings: Settings, group: FeatureGroup, differ: Sequence[Mapping[str, Any]], lag_ms: int
) -> dict[str, Reason]:
    """The reason of each answer that differs, by its served_id."""
    reasons = {one["served_id"]: Reason.DEGRADED for one in differ if one["degraded"]}
    unexplained = [one for one in differ if not one["degraded"]]
    if not unexplained:
        return reasons
    ends_ms = [one["batch_end_ms"] for one in unexplained if one["batch_end_ms"] is not None]
    first_end_ms = min(ends_ms, default=0)
    views = views_made(spark, settings, group, first_end_ms) if ends_ms else {}
    entity = group.entity_type.value
    answers = spark.createDataFrame(
        [
            (one["served_id"], one["entity"], one["features_at_ms"], one["served_at_ms"], one["batch_end_ms"],
             *made_between(views.get(one["batch_end_ms"], []), one["served_at_ms"]), json.dumps(one["features"]))
            for one in unexplained
        ],
        f"served_id STRING, entity {entity}, at_ms BIGINT, served_at_ms BIGINT, batch_end_ms BIGINT, made_after_ms BIGINT, "
        "made_before_ms BIGINT, features STRING",
    )  # fmt: skip
    events = arrivals_of(spark, settings, group, answers.select("entity").distinct(), first_end_ms)
    kernel = _kernel(group, lag_ms, settings.watermark_seconds * 1_000)
    found = answers.groupBy("entity").cogroup(events.groupBy("entity")).applyInArrow(kernel, "served_id STRING, reason STRING")
    return reasons | {row["served_id"]: Reason(row["reason"]) for row in found.collect()}


def _kernel(group: FeatureGroup, lag_ms: int, watermark_ms: int) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def kernel(answers: pa.Table, events: pa.Table) -> pa.Table:
        events = events.sort_by("ts_ms")
        arrivals = Arrivals(
            series_of(events, group), numpy_of(events["arrival_ms"]), numpy_of(events["behind_ms"]),
            np.asarray(events["streamed"].to_pylist(), dtype=bool),
        )  # fmt: skip
        reasons = [
            explain(
                group, arrivals,
                Answer(
                    one["at_ms"], one["served_at_ms"], one["batch_end_ms"], (one["made_after_ms"], one["made_before_ms"]),
                    json.loads(one["features"]),
                ),
                lag_ms, watermark_ms,
            )
            for one in answers.to_pylist()
        ]  # fmt: skip
        return pa.table({"served_id": answers["served_id"], "reason": pa.array([str(reason) for reason in reasons])})

    return kernel
