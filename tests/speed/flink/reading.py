"""What the two engines make of messages: rows of Spark, and of Flink, run in the SQL client itself without a cluster."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from features.declaration import FeatureGroup
from infra.flink.cluster import prepare_flink, sql_client_command, sql_client_environment
from infra.settings import Settings
from speed.flink.job_sql import Job
from speed.stream import PLACE, contributions, different_inputs, judged

ARRIVAL_MS = 1_900_000_000_000


def flink_rows(settings: Settings, job: Job, messages: Sequence[bytes | None], folder: Path) -> dict[int, dict[str, Any]]:
    """Place → the contribution."""
    prepare_flink(settings)
    lines = [
        {
            "value": None if value is None else base64.b64encode(value).decode(),
            "partition": 0,
            "offset": offset,
            "timestamp": "2030-03-17 17:46:40Z",
        }
        for offset, value in enumerate(messages)
    ]
    (folder / "in").mkdir()
    (folder / "in" / "messages.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    table = "`value` BYTES, `partition` INT, `offset` BIGINT, `timestamp` TIMESTAMP_LTZ(3)"
    connector = "'connector' = 'filesystem', 'format' = 'json', 'path' = '{}'"
    rows, printed = run_sql(
        settings,
        f"CREATE TEMPORARY TABLE messages ({table}) WITH ({connector.format((folder / 'in').as_uri())}, 'json.timestamp-format.standard' = 'SQL');\n"
        f"CREATE TEMPORARY TABLE contributions ({job.columns}) WITH ({connector.format((folder / 'out').as_uri())});\n"
        f"INSERT INTO contributions {job.select};\n",
        folder,
    )
    assert len(rows) == len(messages), printed
    return {row["o"]: row for row in rows}


def run_sql(settings: Settings, statements: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Runs statements in the SQL client itself; gives the rows of the JSON files in the subfolder `out`, and the end of what was printed."""
    (folder / "job.sql").write_text(
        "SET 'execution.target' = 'local';\nSET 'rest.port' = '0';\nSET 'rest.bind-port' = '0';\nSET 'execution.runtime-mode' = 'batch';\nSET 'execution.attached' = 'true';\n"
        f"SET 'table.dml-sync' = 'true';\nSET 'taskmanager.memory.managed.size' = '32m';\nSET 'taskmanager.numberOfTaskSlots' = '1';\n{statements}"
    )
    done = subprocess.run(
        sql_client_command(settings, folder / "job.sql"), env={**os.environ, **sql_client_environment(settings)}, capture_output=True,
        text=True, timeout=180, check=False,
    )  # fmt: skip
    rows = [json.loads(line) for path in (folder / "out").glob("[!_.]*") for line in path.read_text().splitlines()]
    return rows, done.stdout[-3_000:] + done.stderr[-3_000:]


def spark_rows(
    spark: SparkSession, settings: Settings, groups: Sequence[FeatureGroup], messages: Sequence[bytes | None]
) -> dict[int, Any]:
    """Place → the contribution where the message fits, with the reason where it does not."""
    source = groups[0].source
    frame = spark.createDataFrame(
        [(value, 0, offset, ARRIVAL_MS) for offset, value in enumerate(messages)],
        "value BINARY, partition INT, offset BIGINT, arrival_ms BIGINT",
    )
    typed = judged(settings, frame, source, PLACE).persist()
    reasons = {
        row.kafka_offset: row._reason for row in typed.where("_reason IS NOT NULL").select("kafka_offset", "_reason").collect()
    }
    fit = {row.kafka_offset: row for row in contributions(groups, typed.where("_reason IS NULL")).collect()}
    assert len(reasons) + len(fit) == len(messages)
    assert different_inputs(groups)
    return {**reasons, **fit}
