"""The training set: what each entity's features were at the time of each label, by the same windows and the same algebra as serving.

Reads `events` and label points; gives a row per label. The window of a label at q holds events before q alone: nothing of its future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType, _parse_datatype_string

from batch.partials import arrow_schema, by_entity, numpy_of, series_of, whole_partition, with_inputs
from features.aggregations import Ints
from features.declaration import FeatureGroup, count
from features.windows import DAY_MS, MINUTE_MS
from infra.errors import NotReadyError
from infra.settings import Settings

TABLE = "training_set"
HORIZON_MS = 7 * DAY_MS
#: Of the label points' period, the share at its end that evaluates.
EVALUATION_SHARE = 0.2


@dataclass(frozen=True)
class TrainingSetReport:
    """What was written: rows, rows with label 1, rows of each split, and the Delta version of the table."""

    rows: int
    positives: int
    train: int
    evaluation: int
    delta_version: int


def point_in_time(
    spark: SparkSession, settings: Settings, group: FeatureGroup, labels: DataFrame, instants: Mapping[str, str] | None = None
) -> DataFrame:
    """The features of each label's entity at its time.

    Args:
        spark: The session.
        settings: Where the lake is.
        group: The declaration.
        labels: A column `entity` and the columns of `instants`; others are passed through.
        instants: Prefix of the result's columns → column with the time, int64 ms. Default: no prefix, `q_ms`.

    Returns:
        `labels` with one column `{prefix}{feature}` per prefix and feature: BIGINT or DOUBLE, null where there is no value.
    """
    instants = dict(instants or {"": "q_ms"})
    events = with_inputs(spark.read.format("delta").load(settings.table(group.source.table)), group)
    rows = events.withColumn("label", F.lit(None).cast(labels.schema.simpleString())).unionByName(
        labels.select("entity", F.struct(*labels.columns).alias("label")), allowMissingColumns=True
    )
    values = [
        f"`{prefix}{feature.name}` {group.value_sql_type(index)}"
        for prefix in instants
        for index, feature in enumerate(group.features)
    ]
    schema = _parse_datatype_string(", ".join([*(f"`{f.name}` {f.dataType.simpleString()}" for f in labels.schema), *values]))
    assert isinstance(schema, StructType)
    return by_entity(rows, events.count(), "ts_ms").mapInArrow(_kernel(group, instants, arrow_schema(schema)), schema)


def build_training_set(spark: SparkSession, settings: Settings, group: FeatureGroup, batch_end_ms: int) -> TrainingSetReport:
    """Writes the training set of "does the entity purchase again within 7 days" from the events before `batch_end_ms`.

    The label points of an entity are a weekly grid, each at a jittered instant, and, since a model is asked most when something
    happens, 10 minutes after one in fifty of its events; from 30 days after the first event to 7 days before batch_end. They are
    split by time, with a gap of the horizon, so that no label reaches from one part into the other. Each row has the features at
    q, and as `batch_{feature}` those at the last midnight before q: what batch alone would have served.

    Raises:
        NotReadyError: There are no events.
    """
    path = settings.table(group.source.table)
    if not DeltaTable.isDeltaTable(spark, path):
        raise NotReadyError("There are no events yet.", "Load a file by `braid load FILE` or stream some by `braid replay FILE`.")
    events = spark.read.format("delta").load(path).where(F.col("ts_ms") < batch_end_ms)
    points = _label_points(events, group, batch_end_ms).withColumn("horizon_ms", F.col("q_ms") + HORIZON_MS)
    points = points.withColumn("batch_ms", F.expr(f"q_ms - pmod(q_ms, {DAY_MS})"))
    purchases = FeatureGroup("label_of", group.entity, group.source, (count("purchases", where="event_type = 'PURCHASE'"),))
    labelled = point_in_time(spark, settings, purchases, points, {"before_": "q_ms", "within_": "horizon_ms"})
    labels = labelled.select(
        "entity", "q_ms", "batch_ms", F.expr("CAST(within_purchases > before_purchases AS INT)").alias("label")
    )
    first, last = labels.agg(F.min("q_ms"), F.max("q_ms")).first() or (None, None)
    boundary_ms = 0 if first is None else int(last - (last - first) * EVALUATION_SHARE)
    split = F.when(F.col("q_ms") >= boundary_ms, "evaluation").when(F.col("q_ms") < boundary_ms - HORIZON_MS, "train")
    labels = labels.withColumn("split", split).where("split IS NOT NULL")
    rows = point_in_time(spark, settings, group, labels, {"": "q_ms", "batch_": "batch_ms"}).drop("batch_ms")
    target = settings.table(TABLE)
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(target)
    latest = DeltaTable.forPath(spark, target).history(1).first()
    assert latest is not None
    parts = {
        row["split"]: row
        for row in spark.read.format("delta")
        .load(target)
        .groupBy("split")
        .agg(F.count("*").alias("n"), F.sum("label").alias("p"))
        .collect()
    }
    counts = {name: (row["n"], row["p"]) for name, row in parts.items()}
    return TrainingSetReport(
        rows=sum(n for n, _ in counts.values()),
        positives=sum(p for _, p in counts.values()),
        train=counts.get("train", (0, 0))[0],
        evaluation=counts.get("evaluation", (0, 0))[0],
        delta_version=int(latest["version"]),
    )


def _label_points(events: DataFrame, group: FeatureGroup, batch_end_ms: int) -> DataFrame:
    """entity, q_ms: distinct label points."""
    entity = f"`{group.entity}`"
    end_ms = batch_end_ms - HORIZON_MS
    spans = (
        events.where(f"{entity} IS NOT NULL")
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


def _kernel(
    group: FeatureGroup, instants: Mapping[str, str], schema: pa.Schema
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = whole_partition(batches)
        if table is None:
            return
        is_label = table.column("label").is_valid()
        events, labels = table.filter(table.column("ts_ms").is_valid()), table.filter(is_label)
        if not labels.num_rows:
            return
        entities, places = np.unique(
            np.concatenate([numpy_of(events.column("entity")), numpy_of(labels.column("entity"))]), return_inverse=True
        )
        event_at, label_at = places[: events.num_rows], places[events.num_rows :]
        # Spark sorted them by entity, in its own order of texts; the composite key must ascend by numpy's.
        inputs = series_of(events, group)
        order = np.lexsort((inputs[0].ts_ms, event_at))
        inputs = [type(one)(one.ts_ms[order], one.v[order], one.valid[order]) for one in inputs]
        find = _Finder(event_at[order], inputs[0].ts_ms, len(entities))
        structs = labels.column("label").combine_chunks()
        columns: list[Any] = [structs.field(i) for i in range(structs.type.num_fields)]
        for column in instants.values():
            q_ms = numpy_of(structs.field(column)).astype(np.int64)
            hi = find(label_at, q_ms)
            for index, (feature, source) in enumerate(zip(group.features, group.input_of, strict=True)):
                start_ms = np.full_like(q_ms, np.iinfo(np.int64).min) if feature.window is None else feature.window.start_ms(q_ms)  # type: ignore[arg-type]
                lo = find(label_at, start_ms)
                partials = feature.aggregation.fold(inputs[source], lo, hi)
                scale, finalize = group.scale_of(index), feature.aggregation.finalize
                values = [finalize(partial, q, scale) for partial, q in zip(partials, q_ms.tolist(), strict=True)]
                columns.append(pa.array(values, type=schema.field(len(columns)).type))
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches(max_chunksize=10_000)

    return kernel


class _Finder:
    """Finds, for many (entity, instant) at once, the index of the first event of the entity that is not before the instant."""

    def __init__(self, entity: Ints, ts_ms: Ints, entities: int) -> None:
        self._low = int(ts_ms.min()) if len(ts_ms) else 0
        self._span = (int(ts_ms.max()) if len(ts_ms) else 0) - self._low + 2
        if self._span * (entities + 1) >= 2**63:
            raise OverflowError("The events of one partition span too many entities and milliseconds.")
        self._keys = entity * self._span + (ts_ms - self._low)

    def __call__(self, entity: Ints, instant_ms: Ints) -> Ints:
        return np.searchsorted(
            self._keys, entity * self._span + np.clip(instant_ms, self._low, self._low + self._span - 1) - self._low
        )
