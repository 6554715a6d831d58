"""The simulated data of the card issuer; `test_examples` has what holds for all examples."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import pytest

from examples.fraud.transactions import DELAY_DAYS, Report, generate
from examples.simulation import END_MS
from features.instants import parse_rfc3339
from features.windows import DAY_MS

SCENARIOS = {1, 2, 3, 4, 5}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def simulate(folder: Path, seed: int = 1) -> Report:
    return generate(folder, cards=800, terminals=200, days=45, seed=seed)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return simulate(tmp_path_factory.mktemp("fraud"))


@pytest.fixture(scope="module")
def purchases(report: Report) -> list[dict[str, str]]:
    return rows_of(report.transactions)


@pytest.fixture(scope="module")
def labels(report: Report) -> dict[str, dict[str, str]]:
    return {row["transaction_id"]: row for row in rows_of(report.labels)}


def test_the_report_says_what_the_files_hold(report: Report, purchases: list, labels: dict) -> None:
    scenarios = [int(row["scenario"]) for row in labels.values()]
    assert report.purchases == len(purchases) == len(labels)
    assert report.frauds == {kind: scenarios.count(kind) for kind in SCENARIOS}
    assert report.known_frauds == len(rows_of(report.chargebacks))


def test_frauds_are_rare_and_of_every_scenario(report: Report) -> None:
    assert 0.005 < report.fraud_share < 0.015
    assert all(report.frauds.values())
    assert report.frauds[1] < 0.1 * sum(report.frauds.values())


def test_every_purchase_has_its_label(purchases: list, labels: dict) -> None:
    for row in purchases:
        label = labels[row["transaction_id"]]
        assert (label["card_id"], label["terminal_id"], label["amount"], label["time"]) == (
            row["card_id"], row["terminal_id"], row["amount"], row["event_timestamp"],
        )  # fmt: skip
        assert label["label"] == str(int(label["scenario"] != "0"))


def test_a_chargeback_is_of_a_fraud_and_comes_some_days_after_it(report: Report, labels: dict) -> None:
    for row in rows_of(report.chargebacks):
        label = labels[row["transaction_id"]]
        assert label["label"] == "1"
        assert (label["card_id"], label["terminal_id"], label["amount"]) == (row["card_id"], row["terminal_id"], row["amount"])
        delay_ms = parse_rfc3339(row["event_timestamp"]) - parse_rfc3339(label["time"])
        assert DELAY_DAYS[0] * DAY_MS <= delay_ms < DELAY_DAYS[1] * DAY_MS


def test_every_fraud_is_known_after_the_longest_delay(report: Report, labels: dict) -> None:
    known = {row["transaction_id"] for row in rows_of(report.chargebacks)}
    old = report.end_ms - DELAY_DAYS[1] * DAY_MS
    frauds = {name for name, row in labels.items() if row["label"] == "1" and parse_rfc3339(row["time"]) < old}
    assert frauds <= known
    assert len(known) < sum(report.frauds.values())


def test_events_lie_in_the_simulated_time_and_are_ordered(report: Report) -> None:
    for path in (report.transactions, report.chargebacks):
        rows = rows_of(path)
        times = [row["event_timestamp"] for row in rows]
        assert times == sorted(times)
        assert report.begin_ms <= parse_rfc3339(times[0]) <= parse_rfc3339(times[-1]) < report.end_ms == END_MS
        assert len({row["event_id"] for row in rows}) == len(rows)


def test_the_times_have_milliseconds_and_an_offset(purchases: list) -> None:
    time = purchases[0]["event_timestamp"]
    assert time == datetime.fromisoformat(time).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_card_testing_is_a_burst_at_many_terminals(labels: dict) -> None:
    bursts: dict[str, list[dict[str, str]]] = {}
    for row in labels.values():
        if row["scenario"] == "4":
            bursts.setdefault(row["card_id"], []).append(row)
    spans = [parse_rfc3339(rows[-1]["time"]) - parse_rfc3339(rows[0]["time"]) for rows in bursts.values()]
    assert sorted(spans)[len(spans) // 2] < 2 * 3_600_000
    assert all(len({row["terminal_id"] for row in rows}) >= 4 for rows in bursts.values())
