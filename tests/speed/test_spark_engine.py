"""A query of Spark with a backlog, on real Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka import KafkaProducer
from pyspark.sql import SparkSession

from infra.kafka import create_topics, spark_reader_options
from infra.settings import Settings
from speed.session import EXPRESSIONS
from speed.spark_engine import SparkQuery
from tests.waiting import eventually

pytestmark = pytest.mark.stack


def test_expressions_are_compiled_while_a_query_is_far_behind(
    streaming: Settings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speed.spark_engine._FAR_BEHIND", 100)
    create_topics(streaming, {"backlog": 1})
    producer = KafkaProducer(bootstrap_servers=streaming.kafka_bootstrap)
    for n in range(400):
        producer.send("backlog", key=b"1", value=b"%d" % n)
    producer.flush()
    producer.close()
    options = {
        **spark_reader_options(streaming),
        "subscribe": "backlog",
        "startingOffsets": "earliest",
        "maxOffsetsPerTrigger": "50",
    }
    rows = spark.readStream.format("kafka").options(**options).load().selectExpr("upper(CAST(value AS STRING)) AS value")
    started = rows.writeStream.format("noop").option("checkpointLocation", str(tmp_path)).start()
    query, seen = SparkQuery(started, str(tmp_path)), set()

    def caught_up() -> bool:
        lag = query.entry({}).get("lag")
        session = started._jsq.streamingQuery().sparkSessionForStream()
        if lag is not None:
            seen.add((lag > 100, session.conf().get(EXPRESSIONS)))
        return lag == 0

    try:
        eventually(caught_up, 60, every=0.02)
        assert query.fault() is None
    finally:
        query.stop()
    assert seen == {(True, "FALLBACK"), (False, "NO_CODEGEN")}
