"""The training set of a model: label points, the features of the entity at each point, and the outcome that followed.

Reads the source's events table; writes `training_set_{model}`, split by time into training and evaluation rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.events import require_events
from batch.point_in_time import point_in_time
from batch.tables import table_state
from features.declaration import FeatureGroup
from features.project import Model
from features.windows import DAY_MS, MINUTE_MS
from infra.settings import Settings

#: The share of the period of all label points, at its end, whose rows are for evaluation.
EVALUATION_SHARE = 0.2


@dataclass(frozen=True)
class TrainingSetReport:
    """The counts of a training set that was written: all rows, rows with label 1, rows of each split; and the table's Delta version."""

    rows: int
    positives: int
    train: int
    evaluation: int
    delta_version: int


def build_training_set(spark: SparkSession, settings: Settings, model: Model, batch_end_ms: int) -> TrainingSetReport:
    """Writes the training set of a model from the events before `batch_end_ms`.

    An entity has two kinds of label points. The first kind is one point a week, at a pseudo-random instant of that week. The second
    kind is 10 minutes after one in fifty of the entity's events, because most requests come shortly after an event. Label points
    begin 30 days after the entity's first event, and end one horizon before `batch_end_ms`.

    The rows are split by time. Between the two parts a gap of one horizon is left out, so that the outcome of a training row lies
    before the evaluation period. Each row has the features at q, and under `batch_{feature}` the features at the last midnight before
    q, which are those that batch alone would have served.

    Raises:
        NoEventsError: There are no events.
    """
    group, horizon_ms = model.group, model.horizon_ms
    path = settings.table(group.source.table)
    require_events(spark, settings, group.source)
    events = spark.read.format("delta").load(path).where(F.col("ts_ms") < batch_end_ms)
    points = _label_points(events, group, batch_end_ms - horizon_ms).persist()
    instants_ms = {"batch_ms": F.expr(f"q_ms - pmod(q_ms, {DAY_MS})"), "horizon_ms": F.col("q_ms") + horizon_ms}
    labels = with_split(points, horizon_ms).withColumns(instants_ms)
    # The outcome is counted as one more feature, at q and at q + horizon, so that one pass over the events gives features and label.
    [outcome] = model.outcome_group.features
    both = FeatureGroup(group.name, group.entity, group.source, (*group.features, outcome))
    instants = {"": "q_ms", "batch_": "batch_ms", "within_": "horizon_ms"}
    only = {"batch_": group.feature_names, "within_": (outcome.name,)}
    counted = point_in_time(spark, settings, both, labels, instants, only)
    label = F.expr(f"CAST(within_{outcome.name} > {outcome.name} AS INT)").alias("label")
    values = [f"{prefix}{name}" for prefix in ("", "batch_") for name in group.feature_names]
    rows = counted.select("entity", "q_ms", label, "split", *values)
    target = settings.table(model.training_table)
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(target)
    points.unpersist()
    state = table_state(spark, target)
    assert state is not None
    parts = {
        row["split"]: row
        for row in state.read(spark).groupBy("split").agg(F.count("*").alias("n"), F.sum("label").alias("p")).collect()
    }
    counts = {name: (row["n"], row["p"]) for name, row in parts.items()}
    return TrainingSetReport(
        rows=sum(n for n, _ in counts.values()),
        positives=sum(p for _, p in counts.values()),
        train=counts.get("train", (0, 0))[0],
        evaluation=counts.get("evaluation", (0, 0))[0],
        delta_version=state.version,
    )


def with_split(labels: DataFrame, horizon_ms: int) -> DataFrame:
    """Adds `split` to label points: "evaluation" for the latest, "train" for those that lie more than the horizon before.

    Points within the horizon before the evaluation period are left out.
    """
    first, last = labels.agg(F.min("q_ms"), F.max("q_ms")).first() or (None, None)
    boundary_ms = 0 if first is None else int(last - (last - first) * EVALUATION_SHARE)
    split = F.when(F.col("q_ms") >= boundary_ms, "evaluation").when(F.col("q_ms") < boundary_ms - horizon_ms, "train")
    return labels.withColumn("split", split).where("split IS NOT NULL")


def _label_points(events: DataFrame, group: FeatureGroup, end_ms: int) -> DataFrame:
    """The distinct label points before `end_ms`. Columns: `entity`, `q_ms`."""
    entity = f"`{group.entity}`"
    spans = (
        events.where(group.has_entity_sql)
        .groupBy(F.expr(entity).alias("entity"))
        .agg((F.min("ts_ms") + 30 * DAY_MS).alias("start_ms"))
    )
    week = F.explode(F.expr(f"sequence(start_ms, {end_ms}L, {7 * DAY_MS}L)"))
    grid = spans.where(F.col("start_ms") < end_ms).select("entity", week.alias("week_ms"))
    grid = grid.select("entity", F.expr(f"week_ms + pmod(xxhash64(entity, week_ms), {7 * DAY_MS})").alias("q_ms"))
    soon = events.where(f"pmod(xxhash64(`{group.source.event_id}`), 50) = 0").select(
        F.expr(entity).alias("entity"), (F.col("ts_ms") + 10 * MINUTE_MS).alias("q_ms")
    )
    soon = soon.join(spans, "entity").where("q_ms >= start_ms").select("entity", "q_ms")
    return grid.unionByName(soon).where(F.col("q_ms") < end_ms).distinct()
