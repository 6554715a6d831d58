"""Encodes the answer of `/features` as a stream of Arrow: one record batch with one row per id, in the order of the ids.

    id                      the id, with the type of the entity's column; a struct if several columns identify the entity
    {feature}               int64, double, or a list of int64, double or string; null if the feature has no value
    provenance.{field}      the fields of `serving.contract.Provenance`; times are timestamps in milliseconds, UTC

The names of the columns are unique, because no feature is named `id` or has a dot in its name. The values equal those of the answer in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain

import pyarrow as pa

from features.declaration import FeatureGroup
from features.sources import ColumnType
from serving.answer import Marks, Provenances, Served

_TIME = pa.timestamp("ms", tz="UTC")
_NUMBERS = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "STRING": pa.string()}
_TYPES = _NUMBERS | {f"ARRAY<{name}>": pa.list_(kind) for name, kind in _NUMBERS.items()}
_PROVENANCE = [
    pa.field("provenance.as_of", _TIME, nullable=False),
    pa.field("provenance.batch_end", _TIME),
    pa.field("provenance.newest_event", _TIME),
    pa.field("provenance.tiles_merged", pa.int64(), nullable=False),
    pa.field("provenance.degraded", pa.bool_(), nullable=False),
    *(pa.field(f"provenance.{name}", pa.list_(pa.string()), nullable=False) for name in ("degraded_reasons", "degraded_features", "missing")),
    pa.field("provenance.architecture", pa.string(), nullable=False),
]  # fmt: skip
#: Fingerprint of a group → the schema of its answers.
_schemas: dict[str, pa.Schema] = {}


def schema_of(group: FeatureGroup) -> pa.Schema:
    """Returns the schema of the answers about a version of a group."""
    schema = _schemas.get(group.fingerprint)
    if schema is None:
        kinds = [pa.string() if column.type is ColumnType.STRING else pa.int64() for column in group.entity_columns]
        identity = pa.struct(list(zip(group.entity_names, kinds, strict=True))) if group.is_composite else kinds[0]
        features = [pa.field(name, _TYPES[group.value_sql_type(index)]) for index, name in enumerate(group.feature_names)]
        schema = _schemas[group.fingerprint] = pa.schema([pa.field("id", identity, nullable=False), *features, *_PROVENANCE])
    return schema


def arrow_stream(
    group: FeatureGroup, ids: Sequence[int | str], served: Sequence[Served], q_ms: int, architecture: str = "lambda"
) -> bytes:
    """Encodes an answer about features as a stream of Arrow.

    Args:
        group: The served version of the group.
        ids: The ids of the entities, in the form of the online store.
        served: The features of each entity.
        q_ms: The time of the request, in ms since 1970.
        architecture: The architecture that computed the values, "lambda" or "kappa".
    """
    schema, provenances = schema_of(group), Provenances(group.feature_names, q_ms)
    marks = [provenances.marks(its) for its in served]
    columns = [
        [group.request_id(entity_id) for entity_id in ids] if group.is_composite else ids,
        *([its.merged.values[index] for its in served] for index in range(len(group.features))),
        [q_ms] * len(served),
        [its.merged.batch_end_ms for its in served],
        [its.merged.newest_event_ms for its in served],
        [its.merged.tiles_merged for its in served],
        [bool(its.degraded_reasons) for its in marks],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=False)]
    arrays += [_texts([its[place] for its in marks]) for place in range(len(Marks._fields))]
    arrays.append(pa.array([architecture] * len(served)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue())


def _texts(lists: Sequence[Sequence[str]]) -> pa.Array:
    """Converts lists of texts to an Arrow array. Most lists are empty, and pyarrow's own conversion of nested lists takes twenty times as long."""
    offsets = pa.array([0, *accumulate(map(len, lists))], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(list(chain.from_iterable(lists)), pa.string()))
