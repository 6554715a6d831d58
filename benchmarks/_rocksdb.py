"""The state store of the speed layer's peers, as a careful user of Spark's own stateful operators would configure it."""

from __future__ import annotations

ROCKSDB = {
    "spark.sql.streaming.stateStore.providerClass": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
    "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
}
