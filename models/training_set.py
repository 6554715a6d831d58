"""Builds the training set of a model: label points, the features of the entities at each point, and the outcome that followed.

Reads the events tables of the model's sources, and the table of the owner's own labels if the model has such labels; writes `training_set_{model}`,
split by time into rows for training, a gap, and rows for evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from batch.events import require_events
from batch.point_in_time import point_in_time
from batch.tables import replace_table, retry_conflicts, table_state
from batch.view import default_batch_end_ms, view_table
from features.declaration import FeatureGroup, ModelInput
from features.instants import now_ms
from features.model import Model, Outcome
from features.objective import Objective
from features.predicates import canonical_predicate
from features.sources import ColumnType
from features.windows import DAY_MS, MINUTE_MS
from infra.errors import NotReadyError
from infra.settings import Settings
from models.outcomes import LABEL_JOIN

#: The last share of the period of all label points; the rows of this part are for evaluation.
EVALUATION_SHARE = 0.2
#: The column that holds the entity of the first group while the features of another group are joined.
_SUBJECT = "_subject"


@dataclass(frozen=True)
class TrainingSetReport:
    """The counts of a training set that was written.

    Attributes:
        rows: The number of all rows.
        positives: The number of rows with label 1; None if the objective has no label 1.
        train: The number of rows for training.
        evaluation: The number of rows for evaluation.
        delta_version: The Delta version of the table.
    """

    rows: int
    positives: int | None
    train: int
    evaluation: int
    delta_version: int


def build_training_set(spark: SparkSession, settings: Settings, model: Model, batch_end_ms: int) -> TrainingSetReport:
    """Writes the training set of a model from the events before `batch_end_ms`.

    If the outcome declares which events are label points (`Outcome.at`), each such event is a label point, at its own time. Otherwise an entity has
    two kinds of label points. The first kind is one point a week, at a pseudo-random instant of that week. The second kind is 10 minutes after one in
    fifty of the entity's events, because most requests come shortly after an event. These label points begin 30 days after the entity's first event.
    All label points of an outcome end one horizon before `batch_end_ms`, because later outcomes are not known yet. The owner's own labels are label
    points themselves, up to `batch_end_ms`.

    The rows are split by time. A gap of one horizon separates the training rows from the evaluation rows, so the outcome of a training row lies
    before the evaluation period. The rows of the gap are used only by the fit on all rows. Each row has the features at its time q. Its columns
    `batch_{feature}` have the features at the last midnight (UTC) before q, which batch alone would have served.

    Raises:
        NoEventsError: There are no events of a source, or no labels.
    """
    for source in [*model.sources, *([model.labels] if model.labels else [])]:
        require_events(spark, settings, source)
    # A loaded label is known already; an outcome is known one horizon after its label point.
    end_ms = batch_end_ms if model.labels else batch_end_ms - model.horizon_ms
    target = settings.table(model.training_table)
    points = label_points(spark, settings, model, end_ms).persist()
    try:
        rows = with_features(spark, settings, model, with_split(points, model.horizon_ms))
        retry_conflicts(lambda: replace_table(rows.select(*in_order(model, rows.columns)), target))
    finally:
        points.unpersist()
    state = table_state(spark, target)
    assert state is not None
    positive = F.coalesce(F.sum((F.col("label").cast("string") == "1").cast("int")), F.lit(0))
    parts = state.read(spark).groupBy("split").agg(F.count("*").alias("n"), positive.alias("p")).collect()
    rows_of_split = {row["split"]: row["n"] for row in parts}
    return TrainingSetReport(
        rows=sum(rows_of_split.values()),
        positives=sum(row["p"] for row in parts) if model.objective is Objective.BINARY else None,
        train=rows_of_split.get("train", 0),
        evaluation=rows_of_split.get("evaluation", 0),
        delta_version=state.version,
    )


def training_end_ms(spark: SparkSession, settings: Settings, model: Model, published_ms: Iterable[int] = ()) -> int:
    """Returns the time, in ms since 1970, up to which the lake has all events that the training set of a model reads.

    It is the earliest batch_end of the views, and not later than those of the published views: the events of a view that a blocking check has kept
    out of the online store are no training data either. In Kappa it is the earliest time up to which a source of the model is complete. If the outcome has
    a source of its own, it is at most the time up to which that source is complete.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The model.
        published_ms: The batch_ends of the published views of its groups.

    Raises:
        NotReadyError: A view is missing, or has no entity; or no labels were loaded.
    """
    ends_ms = []
    if settings.kappa:  # Kappa has no batch views
        ends_ms = [default_batch_end_ms(spark, settings, source, now_ms()) for source in model.sources]
    for group in () if settings.kappa else model.groups:
        state = table_state(spark, settings.table(view_table(group)))
        row = state and state.read(spark).select("batch_end_ms").first()
        if not row:
            raise NotReadyError(f"There is no view of {group.name}, or it has no entity.", "Run `braid backfill`.")
        ends_ms.append(row["batch_end_ms"])
    if model.outcome_source:
        ends_ms.append(default_batch_end_ms(spark, settings, model.outcome_source, now_ms()))
    if model.labels and table_state(spark, settings.table(model.labels.table)) is None:
        raise NotReadyError(
            f"No labels of {model.name} were loaded.", f"Run `braid training-set --model {model.name} --labels FILE`."
        )
    return min([*ends_ms, *published_ms])


def with_split(labels: DataFrame, horizon_ms: int) -> DataFrame:
    """Adds the column `split` to label points, by their time `q_ms`.

    The value is "evaluation" in the last `EVALUATION_SHARE` of the period, "train" more than one horizon before that part, and "gap" between the two.
    """
    first, last = labels.agg(F.min("q_ms"), F.max("q_ms")).first() or (None, None)
    boundary_ms = 0 if first is None else int(last - (last - first) * EVALUATION_SHARE)
    split = F.when(F.col("q_ms") >= boundary_ms, "evaluation").when(F.col("q_ms") < boundary_ms - horizon_ms, "train")
    return labels.withColumn("split", split.otherwise("gap"))


def with_features(spark: SparkSession, settings: Settings, model: Model, labels: DataFrame) -> DataFrame:
    """Adds `label` and the features of all inputs to label points.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        model: The declaration.
        labels: The result of `label_points`; other columns are passed through.

    Returns:
        The label points with the column `label`, a column `{feature}` with its value at q, and a column `batch_{feature}` with its value at the last
        midnight (UTC) before q.
    """
    first, *others = model.vector.inputs
    labels = labels.withColumn("batch_ms", F.expr(f"q_ms - pmod(q_ms, {DAY_MS})"))
    if model.labels is None:
        rows = _with_outcome(spark, settings, model, labels)
    else:
        rows = point_in_time(spark, settings, first.group, labels, _instants(first))
    for entry in others:
        rows = with_group(spark, settings, entry.group, rows, _instants(entry), entry.id_sql)
    return rows.drop("batch_ms")


def _with_outcome(spark: SparkSession, settings: Settings, model: Model, labels: DataFrame) -> DataFrame:
    """Adds `label`, and the features of the first input."""
    outcome_group, [first, *_] = model.outcome_group, model.vector.inputs
    [outcome] = outcome_group.features
    label = F.expr(f"CAST(_within_{outcome.name} > _at_{outcome.name} AS INT)").alias("label")
    outcome_instants = {"_at_": "after_ms", "_within_": "horizon_ms"}
    # Outcomes are counted from 1 ms after a label point that is an event, so the event is not an outcome of itself.
    own_event_ms = 1 if model.points_are_events else 0
    labels = labels.withColumns({"after_ms": F.col("q_ms") + own_event_ms, "horizon_ms": F.col("q_ms") + model.horizon_ms})
    if LABEL_JOIN in labels.columns or outcome_group.source != first.group.source:
        key = LABEL_JOIN if LABEL_JOIN in labels.columns else "entity"
        rows = with_group(spark, settings, outcome_group, labels, outcome_instants, key)
        rows = point_in_time(spark, settings, first.group, rows, _instants(first))
    else:
        # The outcome is computed as an additional feature of the first group, so one pass over the events computes the features and the label.
        both = FeatureGroup(first.group.name, first.group.entity, first.group.source, (*first.group.features, outcome))
        only = dict.fromkeys(_instants(first), first.group.feature_names) | dict.fromkeys(outcome_instants, (outcome.name,))
        rows = point_in_time(spark, settings, both, labels, _instants(first) | outcome_instants, only)
    own = ("after_ms", "horizon_ms", LABEL_JOIN, *(f"{prefix}{outcome.name}" for prefix in outcome_instants))
    return rows.withColumn("label", label).drop(*own)


def _instants(entry: ModelInput) -> dict[str, str]:
    return {entry.prefix: "q_ms", f"batch_{entry.prefix}": "batch_ms"}


def with_group(
    spark: SparkSession, settings: Settings, group: FeatureGroup, rows: DataFrame, instants: dict[str, str], id_sql: str
) -> DataFrame:
    """Adds the features of a group to rows whose columns identify an entity of the group. They are null if the entity's id is null.

    Args:
        spark: The session.
        settings: The settings that name the lake.
        group: The group.
        rows: A column `entity`, the columns of `instants` and of `id_sql`; all columns are passed through.
        instants: Prefix of the result's columns → column with the time, int64 ms.
        id_sql: The SQL expression over the columns of `rows` whose value is the id of the entity.
    """
    own = rows.withColumn(_SUBJECT, F.col("entity")).withColumn("entity", F.expr(id_sql))
    known = point_in_time(spark, settings, group, own.where("entity IS NOT NULL"), instants)
    all_rows = known.unionByName(own.where("entity IS NULL"), allowMissingColumns=True)
    return all_rows.drop("entity").withColumnRenamed(_SUBJECT, "entity")


def in_order(model: Model, columns: list[str]) -> list[str]:
    """Returns the columns of the table in their order: label point, label, split, other columns, features at q, features at the last midnight."""
    vector = model.vector
    features = [f"{prefix}{name}" for prefix in ("", "batch_") for entry in vector.inputs for name in entry.feature_names]
    head = ["entity", "q_ms", "label", "split"]
    return [*head, *(name for name in columns if name not in {*head, *features}), *features]


def label_points(spark: SparkSession, settings: Settings, model: Model, end_ms: int) -> DataFrame:
    """Reads the label points of a model before `end_ms`.

    Returns:
        Columns `entity`, `q_ms`. If label points are events (`Outcome.at`) or the owner's own labels, also the keys of the other inputs and the
        request columns (a time as BIGINT, in milliseconds). If the outcome declares `join`, also its value as `LABEL_JOIN`. For the owner's own
        labels, also `label`.
    """
    group, outcome = model.group, model.outcome
    first, *others = model.vector.inputs
    keys = {key: F.col(f"`{key}`") for entry in others for key in entry.keys}
    values = {
        column.name: F.unix_millis(f"`{column.name}`") if column.type is ColumnType.TIMESTAMP else F.col(f"`{column.name}`")
        for column in model.request
    }
    if model.labels is not None:
        rows = spark.read.format("delta").load(settings.table(model.labels.table)).where(F.col("ts_ms") < end_ms)
        columns = {
            "entity": F.expr(first.id_sql),
            "q_ms": F.col("ts_ms"),
            "label": F.col("label").cast(model.objective.label_sql_type),
            **keys,
            **values,
        }
        return rows.select(*(column.alias(name) for name, column in columns.items()))
    assert isinstance(outcome, Outcome)
    events = spark.read.format("delta").load(settings.table(group.source.table)).where(F.col("ts_ms") < end_ms)
    if outcome.at is None:
        return _pseudo_random_points(events, group, end_ms).distinct()
    columns = {"entity": F.expr(group.entity_sql), "q_ms": F.col("ts_ms"), **keys, **values}
    if outcome.join:
        columns[LABEL_JOIN] = F.col(f"`{outcome.join}`")
    joined = model.outcome_group.has_entity_sql if outcome.join else "TRUE"  # without a value the outcome stays unknown
    where = f"{group.has_entity_sql} AND {joined} AND ({canonical_predicate(outcome.at, group.source, model.name)})"
    return events.where(where).select(*(value.alias(name) for name, value in columns.items()))


def _pseudo_random_points(events: DataFrame, group: FeatureGroup, end_ms: int) -> DataFrame:
    """Returns the label points of an outcome that does not declare `Outcome.at`. Columns: `entity`, `q_ms`. Points may occur twice."""
    entity = group.entity_sql
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
    return grid.unionByName(soon).where(F.col("q_ms") < end_ms)
