"""Converts the messages of a topic of contributions to Arrow columns, like those of `speed.stream.contributions` in Spark."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pj
import xxhash

from speed.flink.job_sql import InputColumn

#: The seed of Spark's `xxhash64`.
_SEED = 42


def contribution_rows(messages: Sequence[bytes], entities: int, inputs: Sequence[InputColumn]) -> pa.Table:
    """Converts contributions to rows.

    Args:
        messages: The contributions, as bytes of JSON.
        entities: The number of slots.
        inputs: The form of each of the different inputs.

    Returns:
        A row per message: kafka_partition, kafka_offset, arrival_ms (the time of the record in Kafka), verdict, ts_ms, event (the hash of the id),
        entity_0… (the ids as texts), input_0….
    """
    fields = [("p", pa.int32()), ("o", pa.int64()), ("a", pa.string()), ("v", pa.int32()), ("t", pa.int64()), ("e", pa.string())]
    fields += [(f"n{slot}", pa.string()) for slot in range(entities)]
    fields += [(f"i{index}", pa.string() if column.text else pa.int64()) for index, column in enumerate(inputs)]
    text = b"\n".join(messages)
    options = pj.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="error")
    table = pj.read_json(io.BytesIO(text), pj.ReadOptions(use_threads=False, block_size=len(text) + 1), options)
    arrival_ms = np.array(table.column("a").to_pylist(), "datetime64[ms]").astype(np.int64)
    columns = {
        "kafka_partition": table.column("p"),
        "kafka_offset": table.column("o"),
        "arrival_ms": pa.array(arrival_ms),
        "verdict": table.column("v"),
        "ts_ms": table.column("t"),
        "event": _text_hashes(table.column("e")),
    }
    columns |= {f"entity_{slot}": table.column(f"n{slot}") for slot in range(entities)}
    for index, column in enumerate(inputs):
        values = table.column(f"i{index}")
        if column.hashed:
            values = _text_hashes(values) if column.text else _number_hashes(values)
        columns[f"input_{index}"] = values
    return pa.table(columns)


def _text_hashes(values: pa.ChunkedArray) -> pa.Array:
    return pa.array(
        [None if value is None else _signed(xxhash.xxh64_intdigest(value.encode(), _SEED)) for value in values.to_pylist()],
        pa.int64(),
    )


def _number_hashes(values: pa.ChunkedArray) -> pa.Array:
    numbers: npt.NDArray[np.int64] = values.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False).astype("<i8")
    data = numbers.tobytes()
    hashes = [_signed(xxhash.xxh64_intdigest(data[at : at + 8], _SEED)) for at in range(0, len(data), 8)]
    return pa.array(hashes, pa.int64(), mask=np.asarray(values.is_null().combine_chunks().to_numpy(zero_copy_only=False)))


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
