"""A project of two sources, each with its own columns, key, topic, table and groups: neither waits for the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from features.windows import DAY_MS, HOUR_MS, MINUTE_MS
from infra.embedded import services
from infra.project import load_project
from infra.settings import Settings
from orchestration.topics import topics

ROOT = Path(__file__).parents[1]
DEFINITIONS = """
from braid import Column, ColumnType, EventSource, FeatureGroup, Project, count, distinct, since_last, total

orders = EventSource(
    name="orders", topic="shop.orders", table="orders", event_id="order_id", time="ordered_at", key="customer",
    columns=(
        Column("order_id", required=True), Column("customer", required=True),
        Column("ordered_at", ColumnType.TIMESTAMP, required=True), Column("total", ColumnType.DECIMAL),
    ),
)
clicks = EventSource(
    name="clicks", topic="web.clicks", table="clicks", event_id="click_id", time="at", key="visitor",
    columns=(
        Column("click_id", required=True), Column("visitor", ColumnType.INT64, required=True), Column("page", required=True),
        Column("at", ColumnType.TIMESTAMP, required=True),
    ),
)
customers = FeatureGroup(
    "customers", "customer", orders, (count("orders_7d", window="7d"), total("spend_7d", of="total", window="7d"))
)
pages = FeatureGroup("pages", "page", clicks, (count("clicks_1h", window="1h"), distinct("visitors_1d", of="visitor", window="1d")))
visitors = FeatureGroup("visitors", "visitor", clicks, (since_last("minutes_since_click", unit="minutes"),))

project = Project(sources=(orders, clicks), groups=(customers, pages, visitors), assets="HOME/own.py:assets")
"""
OWN = """
import dagster as dg
from braid import Deployment
from dagster_pyspark import LazyPySparkResource

def assets(deployment: Deployment):
    @dg.asset(deps=["orders"])
    def orders_by_customer(spark: LazyPySparkResource) -> None:
        rows = spark.spark_session.read.format("delta").load(deployment.table("orders")).groupBy("customer").count()
        rows.toPandas().to_json(deployment.home / "orders_by_customer.json", orient="values")

    return [orders_by_customer]
"""
NOON = int(datetime(2026, 5, 20, 12, tzinfo=UTC).timestamp() * 1_000)


def text(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class TwoSources:
    """The running deployment."""

    settings: Settings

    def braid(self, *arguments: str, status: int = 0) -> Any:
        """What a command says; it ends with that exit status."""
        command = [sys.executable, "-m", "orchestration.cli", "--home", str(self.settings.home), *arguments, "--json"]
        # With the settings of the services, so that the commands share one warm JVM.
        environment = {**os.environ, **self.settings.environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def write(self, name: str, *events: dict[str, Any]) -> str:
        path = self.settings.home / name
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        return str(path)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, interpreted: None) -> Iterator[TwoSources]:
    home = tmp_path_factory.mktemp("two")
    (home / "definitions.py").write_text(DEFINITIONS.replace("HOME", str(home)))
    (home / "own.py").write_text(OWN)
    settings = Settings.load(home, f"{home}/definitions.py:project").model_copy(
        update={"archive_seconds": 1, "batch_memory": "1g", "speed_memory": "768m", "speed_trigger_seconds": 0.5}
    )
    try:
        services.up(settings, topics(load_project(settings)), only={"kafka", "valkey", "speed", "serving"})
        yield TwoSources(settings)
    finally:
        services.down(settings)


def order(index: int, customer: str, at_ms: int, total: float | None = None) -> dict[str, Any]:
    return {"order_id": f"o{index}", "customer": customer, "ordered_at": text(at_ms), "total": total}


def click(index: int, visitor: int, page: str, at_ms: int) -> dict[str, Any]:
    return {"click_id": f"c{index}", "visitor": visitor, "page": page, "at": text(at_ms)}


def test_a_source_is_loaded_backfilled_and_served_while_the_other_has_no_events(deployment: TwoSources) -> None:
    refused = deployment.braid("load", deployment.write("unnamed.jsonl", order(0, "ada", NOON)), status=1)
    assert "several sources" in refused["error"]
    assert "orders, clicks" in refused["cure"]

    history = [order(1, "ada", NOON - 2 * DAY_MS, 10.5), order(2, "ada", NOON - DAY_MS), order(3, "bob", NOON - HOUR_MS, 2.25)]
    loaded = deployment.braid("load", "--source", "orders", deployment.write("history.jsonl", *history))
    assert (loaded["loaded"], loaded["quarantined"]) == (3, 0)
    done = deployment.braid("backfill", "--to", text(NOON))
    assert done["without_events"] == ["clicks"]
    assert "orders_by_customer" not in done["seconds"], "the project's own assets wait for events of each source"
    assert done["entities"] == {"customers": 2}

    live = deployment.write("live.jsonl", order(4, "ada", NOON + MINUTE_MS, 1.25), order(4, "ada", NOON + MINUTE_MS, 1.25))
    assert deployment.braid("replay", "--source", "orders", live, "--wait")["visible"]
    [row] = deployment.braid("features", "--group", "customers", "ada", "--at", text(NOON + 2 * MINUTE_MS))["rows"]
    assert row["features"] == {"orders_7d": 3, "spend_7d": 11.75}
    assert row["provenance"]["tiles_merged"] == 1


def test_the_other_source_streams_with_its_own_columns_and_gets_its_batch(deployment: TwoSources) -> None:
    events = [
        click(1, 7, "/a", NOON - 30 * MINUTE_MS),
        click(2, 8, "/a", NOON - 20 * MINUTE_MS),
        click(3, 7, "/b", NOON + MINUTE_MS),
    ]
    sent = deployment.braid("replay", "--source", "clicks", deployment.write("clicks.jsonl", *events), "--wait")
    assert (sent["sent"], sent["refused"]) == (3, 0)
    at = ("--at", text(NOON + 2 * MINUTE_MS))
    [before] = deployment.braid("features", "--group", "pages", "/a", *at)["rows"]
    assert before["features"] == {"clicks_1h": 2, "visitors_1d": 2}
    assert before["provenance"]["batch_end"] is None

    done = deployment.braid("backfill", "--source", "clicks", "--to", text(NOON))
    assert done["entities"] == {"pages": 1, "visitors": 2}
    assert done["seconds"]["orders_by_customer"] > 0
    assert sorted(json.loads((deployment.settings.home / "orders_by_customer.json").read_text())) == [["ada", 2], ["bob", 1]]
    [after] = deployment.braid("features", "--group", "pages", "/a", *at)["rows"]
    assert after["features"] == before["features"]
    assert after["provenance"]["batch_end"] == "2026-05-20T12:00:00.000Z"
    [visitor] = deployment.braid("features", "--group", "visitors", "7", *at)["rows"]
    assert visitor["features"] == {"minutes_since_click": 1.0}
    groups = deployment.braid("status")["groups"]
    assert {name: group["entities"] for name, group in groups.items()} == {"customers": 2, "pages": 1, "visitors": 2}


@pytest.mark.parametrize("group", ["customers", "pages", "visitors"])
def test_what_is_served_of_each_group_is_brute_force(deployment: TwoSources, group: str) -> None:
    report = deployment.braid("consistency", "--group", group, "--at", text(NOON + 3 * MINUTE_MS))
    assert report["cells_compared"] > 0
    assert (report["cells_different"], report["degraded"]) == (0, 0)
