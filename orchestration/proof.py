"""The proof: compares served features with features that DuckDB computes from the raw events by brute force.

Reads Parquet files of raw events and the answers of `POST /features`. Reports how many cells were compared and how many differ. The
SQL is made from the declaration and scans all events of the sampled entities for each feature. It uses neither the aggregations
nor the tiles nor the merge of the product, so it does not share their errors. Features that the declaration marks as estimates may
differ within their stated error. All other features must be equal, except for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import httpx
import sqlglot

from features.declaration import Feature, FeatureGroup
from features.sources import ColumnType, EventSource
from features.windows import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from infra.errors import ServiceError
from infra.settings import Settings

#: Entities per request.
CHUNK = 100
#: The relative difference up to which two numbers count as equal.
RELATIVE = 1e-9
#: The allowed error of an estimate: a number of standard errors, plus an absolute slack for small counts, because one or two values
#: may share a register of the sketch.
STANDARD_ERRORS, SLACK = 5, 2
UNIT_MS = {"seconds": SECOND_MS, "minutes": MINUTE_MS, "hours": HOUR_MS, "days": DAY_MS}


@dataclass(frozen=True)
class Difference:
    """A cell that differs: the entity, the feature, the served value and the brute-force value."""

    entity: int | str
    feature: str
    served: Any
    expected: Any


@dataclass
class ProofReport:
    """The result of a proof at one instant.

    Attributes:
        group: The name of the group.
        q_ms: The instant, in ms since 1970.
        entities: The number of entities that were compared.
        cells_compared: The number of cells that were compared; a cell is one feature of one entity.
        degraded: The number of entities with a degraded answer.
        differences: The cells that differ.
    """

    group: str
    q_ms: int
    entities: int = 0
    cells_compared: int = 0
    degraded: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def cells_different(self) -> int:
        """The number of cells that differ."""
        return len(self.differences)


def prove(settings: Settings, group: FeatureGroup, events: Sequence[Path], ids: Sequence[int | str], q_ms: int) -> ProofReport:
    """Compares the served features of some entities with brute force.

    Args:
        settings: The settings that name serving's address.
        group: The declaration of the group.
        events: Parquet files of raw events in the source's contract; an event id may occur several times.
        ids: The ids of the entities.
        q_ms: The time of the requested features, in ms since 1970.

    Raises:
        ServiceError: Serving does not answer.
    """
    return compare(settings, group, brute_force(group, events, ids, q_ms), q_ms)


def compare(settings: Settings, group: FeatureGroup, expected: Mapping[Any, Mapping[str, Any]], q_ms: int) -> ProofReport:
    """Compares the served features of some entities with expected features.

    Args:
        settings: The settings that name serving's address.
        group: The declaration of the group.
        expected: Entity id → feature → value.
        q_ms: The time of the requested features, in ms since 1970.

    Raises:
        ServiceError: Serving does not answer.
    """
    report, ids = ProofReport(group.name, q_ms), list(expected)
    for start in range(0, len(ids), CHUNK):
        for entity_id, row in zip(chunk := ids[start : start + CHUNK], _ask(settings, group, chunk, q_ms), strict=True):
            report.entities += 1
            report.degraded += row["provenance"]["degraded"]
            for feature in group.features:
                served, right = row["features"][feature.name], expected[entity_id][feature.name]
                report.cells_compared += 1
                if not agree(feature, served, right):
                    report.differences.append(Difference(entity_id, feature.name, served, right))
    return report


def sample_ids(group: FeatureGroup, events: Sequence[Path], size: int) -> list[Any]:
    """Returns a pseudo-random sample of the ids of the entities in the events; the same sample in every run."""
    files = [str(path) for path in events]
    has_entity = _duckdb_sql(group.has_entity_sql)
    query = (
        f"SELECT DISTINCT {_duckdb_sql(group.entity_sql)} AS id FROM read_parquet($1) WHERE {has_entity} ORDER BY hash(id) LIMIT $2"
    )
    with duckdb.connect() as connection:
        return [entity_id for (entity_id,) in connection.execute(query, [files, size]).fetchall()]


def brute_force(group: FeatureGroup, events: Sequence[Path], ids: Sequence[int | str], q_ms: int) -> dict[Any, dict[str, Any]]:
    """Returns entity id → feature → value as of `q_ms`, computed by a scan of all events for each feature.

    Args:
        group: The declaration of the group.
        events: Parquet files of raw events in the source's contract; an event id may occur several times.
        ids: The ids of the entities.
        q_ms: The time of the features, in ms since 1970.
    """
    source, entity = group.source, _duckdb_sql(group.entity_sql)
    selected = ", ".join(f'{_feature_sql(source, feature, q_ms)} AS "{feature.name}"' for feature in group.features)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        files = [str(path) for path in events]
        present = {name for name, *_ in connection.execute("DESCRIBE SELECT * FROM read_parquet($1)", [files]).fetchall()}
        used = [column for column in source.columns if column.name in present and column.name != source.event_id]
        columns = ", ".join(f'arg_min({_typed(column.name, column.type.name)}, t) AS "{column.name}"' for column in used)
        connection.execute("CREATE TABLE wanted AS SELECT unnest($1) AS id", [list(ids)]).fetchall()
        read = (
            f'SELECT *, epoch_ms("{source.time}"::TIMESTAMPTZ) AS t FROM read_parquet($1) WHERE {entity} IN (SELECT id FROM wanted)'
        )
        # Of several events with the same id the earliest counts.
        once = f'SELECT "{source.event_id}", min(t) AS t, {columns} FROM ({read}) GROUP BY "{source.event_id}"'
        connection.execute(f"CREATE TABLE e AS SELECT * FROM ({once}) WHERE t < {q_ms}", [files]).fetchall()
        cursor = connection.execute(f"SELECT id, {selected} FROM wanted LEFT JOIN e ON {entity} = id GROUP BY id")
        return {entity_id: dict(zip(group.feature_names, values, strict=True)) for entity_id, *values in cursor.fetchall()}


def _typed(name: str, kind: str) -> str:
    return f'"{name}"::DECIMAL(18, 6)' if kind == "DECIMAL" else f'"{name}"'


def _feature_sql(source: EventSource, feature: Feature, q_ms: int) -> str:
    """Returns a feature as a filtered aggregate in DuckDB's SQL, over the window [floor(q - w, hop), q)."""
    kind, of = feature.aggregation.kind, f'"{feature.of}"'
    column = source.column(feature.of) if feature.of else None
    integers = column is not None and column.type is ColumnType.INT64
    conditions = ["t IS NOT NULL"]
    if feature.window:
        size_ms, hop_ms = feature.window.size_ms, feature.window.hop_ms
        conditions.append(f"t >= {(q_ms - size_ms) // hop_ms * hop_ms}")
    if feature.where:
        conditions.append(f"({_duckdb_sql(feature.where)})")
    if feature.of:
        conditions.append(f"{of} IS NOT NULL")
    filtered = f"FILTER (WHERE {' AND '.join(conditions)})"
    unit_ms = UNIT_MS.get(getattr(feature.aggregation, "unit", ""), 1)
    k, bound = getattr(feature.aggregation, "k", 0), getattr(feature.aggregation, "bound", 0)
    # The variance uses 128-bit integers, because a difference of two large sums of doubles would lose its digits.
    scale = 1 if integers else 1_000_000
    micros, n = f"CAST({of} * {scale} AS HUGEINT)", f"count({of}) {filtered}"
    squares, square = f"sum({micros} * {micros}) {filtered}", f"(sum({micros}) {filtered}) * (sum({micros}) {filtered})"
    variance = f"(({n}) * ({squares}) - {square})::DOUBLE / nullif({n}, 0) ** 2 / {scale}.0 ** 2"
    counts = f"histogram({of}) {filtered}"
    ranked = f"list_sort(list_transform(map_entries({counts}), lambda x: {{'n': -CAST(x.value AS BIGINT), 'v': x.key}}))"
    # Sums have 128 bits. A sum of integers that does not fit 64 bits has no value; a sum of decimals is rounded to a double.
    total = f"coalesce(sum({of}) {filtered}, 0)"
    fits = f"CASE WHEN {total} BETWEEN {-(2**63)} AND {2**63 - 1} THEN {total} END"
    return {
        "count": f"count(*) {filtered}",
        "sum": fits if integers else f"({total})::DOUBLE",
        "mean": f"(sum({of}) {filtered})::DOUBLE / nullif(count({of}) {filtered}, 0)",
        "min": f"(min({of}) {filtered})::DOUBLE",
        "max": f"(max({of}) {filtered})::DOUBLE",
        "last": f"(arg_max({of}, (t, {of})) {filtered})::DOUBLE",
        "variance": variance,
        "stddev": f"sqrt({variance})",
        "distinct": f"count(DISTINCT {of}) {filtered}",
        "approx_distinct": f"count(DISTINCT {of}) {filtered}",
        "last_k": f"(list({of} ORDER BY t DESC, {of} DESC) {filtered})[:{k}]",
        "top_k": f"CASE WHEN cardinality({counts}) <= {bound} THEN list_transform({ranked}, lambda x: x.v)[:{k}] END",
        "since_last": f"({q_ms} - max(t) {filtered}) / {unit_ms}::DOUBLE",
    }[kind]


def _duckdb_sql(condition: str) -> str:
    return sqlglot.transpile(condition, read="spark", write="duckdb")[0]


def _ask(settings: Settings, group: FeatureGroup, ids: Sequence[int | str], q_ms: int) -> list[dict[str, Any]]:
    try:
        answer = httpx.post(
            f"{settings.serving_url}/features",
            json={"group": group.name, "ids": [group.request_id(entity_id) for entity_id in ids], "at": q_ms},
            timeout=30,
            headers=settings.serving_headers,
        )
    except httpx.HTTPError as error:
        raise ServiceError(
            f"Serving at {settings.serving_url} does not answer ({type(error).__name__}).", "Start it by `braid up`."
        ) from None
    if not answer.is_success:
        raise ServiceError(f"Serving answered {answer.status_code}: {answer.text[:300]}.", "See the log serving.log.")
    rows: list[dict[str, Any]] = answer.json()["rows"]
    return rows


def agree(feature: Feature, served: Any, right: Any) -> bool:
    """Returns whether a served value agrees with the right value: equal except for rounding, or, for an estimate, within its error."""
    if served is None or right is None:
        return served is None and right is None
    if isinstance(right, list):
        return len(served) == len(right) and all(map(_same, served, right))
    error = _standard_error(feature, right)
    return bool(abs(served - right) <= STANDARD_ERRORS * error * right + SLACK) if error else _same(served, right)


def _standard_error(feature: Feature, right: Any) -> float:
    """Returns the relative standard error that the declaration states; 0 if the value is exact."""
    aggregation = feature.aggregation
    if aggregation.kind == "approx_distinct":
        return 1.04 / 2 ** (getattr(aggregation, "precision", 0) / 2)
    bound = getattr(aggregation, "bound", 0)
    return (bound - 2) ** -0.5 if aggregation.kind == "distinct" and right >= bound else 0.0


def _same(served: Any, right: Any) -> bool:
    if isinstance(right, str):
        return bool(served == right)
    right = float(right)  # the elements of a list may be decimals
    return bool(abs(served - right) <= RELATIVE * max(abs(served), abs(right)))
