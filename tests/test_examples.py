"""What holds for every simulated example: its data, its project, the requests of its demo, and the features of its benchmark."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import examples.ads.impressions as ads
import examples.fraud.transactions as fraud
import examples.moderation.texts as moderation
import examples.recommendation.visits as recommendation
import examples.search.searches as search
from benchmarks._label_points import label_points
from benchmarks._measures import MEASURES
from braid.testing import features_at
from features.instants import parse_rfc3339, rfc3339
from features.model import Model
from features.project import Project
from features.windows import DAY_MS
from infra.errors import InputError
from infra.project import load_project
from infra.settings import Settings
from orchestration.demo import EXAMPLES, example_of
from orchestration.demo_clients import Answers
from orchestration.demo_data import DemoData, divide
from orchestration.demo_requests import requests_of

SIMULATED = [name for name in EXAMPLES if example_of(name).gain is not None]


def simulated(name: str, folder: Path, seed: int = 1) -> tuple[dict[str, Path], Path]:
    """Small data of an example: the file of each source, and the file of labels."""
    if name == "fraud":
        report: Any = fraud.generate(folder, cards=300, terminals=80, days=30, seed=seed)
        return {"transactions": report.transactions, "chargebacks": report.chargebacks}, report.labels
    if name == "ads":
        report = ads.generate(folder, users=100, days=20, per_day=400, seed=seed)
        return {"ad_events": report.ad_events}, report.labels
    if name == "search":
        report = search.generate(folder, days=20, per_day=15, seed=seed)
        return {"results": report.results}, report.labels
    if name == "recommendation":
        report = recommendation.generate(folder, users=20, days=20, per_day=15, seed=seed)
        return {"visits": report.visits}, report.labels
    report = moderation.generate(folder, authors=300, days=30, per_day=300, seed=seed)
    return {"texts": report.texts, "removals": report.removals}, report.labels


@dataclass(frozen=True)
class Small:
    """An example with small data."""

    name: str
    project: Project
    files: Mapping[str, Path]
    labels: Path

    @property
    def model(self) -> Model:
        return self.project.model(None)


@pytest.fixture(scope="module", params=SIMULATED)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp(request.param)
    settings = Settings.load(str(folder / "home"), example_of(request.param).project)
    files, labels = simulated(request.param, folder)
    return Small(request.param, load_project(settings), files, labels)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_unknown_example_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="shop, fraud"):
        example_of("shops")


def test_a_seed_gives_the_same_bytes(small: Small, tmp_path: Path) -> None:
    again, another = simulated(small.name, tmp_path / "again"), simulated(small.name, tmp_path / "another", seed=2)
    for source, path in small.files.items():
        assert again[0][source].read_bytes() == path.read_bytes()
        assert another[0][source].read_bytes() != path.read_bytes()
    assert again[1].read_bytes() == small.labels.read_bytes()


def test_the_files_fit_the_sources(small: Small) -> None:
    assert set(small.files) == {source.name for source in small.project.sources}
    for source in small.project.sources:
        rows = rows_of(small.files[source.name])
        assert list(rows[0]) == [column.name for column in source.columns]
        assert len({row[source.event_id] for row in rows}) == len(rows)
        times = [row[source.time] for row in rows]
        assert times == sorted(times)


def test_every_scenario_occurs_and_has_a_name(small: Small) -> None:
    gain = example_of(small.name).gain
    assert gain is not None
    labels = rows_of(small.labels)
    assert {int(row["scenario"]) for row in labels} - {0} == set(gain.scenarios) - {0}
    assert 0 < sum(row["label"] == "1" for row in labels) < len(labels) / 5
    assert {*gain.measures, *gain.overall} <= set(MEASURES)


def test_the_demo_has_every_event_once_in_history_or_live_part(small: Small, tmp_path: Path) -> None:
    data = divided(small, tmp_path)
    for source in small.project.sources:
        rows = rows_of(small.files[source.name])
        parts = [pd.read_parquet(path) for path in data.events(source)]
        assert sum(map(len, parts)) == len(rows)
        assert sum(data.part(source, *days)[1] for days in ((0, 2), (2, 6), (6, 7))) == len(parts[1])
        before = sum(parse_rfc3339(row[source.time]) < data.cut_ms for row in rows)
        assert len(parts[0]) == before


def divided(small: Small, folder: Path) -> DemoData:
    times = [parse_rfc3339(rows_of(path)[-1]["event_timestamp"]) for path in small.files.values()]
    return divide(small.project, {name: (path,) for name, path in small.files.items()}, folder, max(times))


def test_a_request_of_the_demo_is_the_latest_label_point_before_its_time(small: Small, tmp_path: Path) -> None:
    data, model = divided(small, tmp_path), small.model
    requests = requests_of(model, data, 10)
    at_ms = data.cut_ms + 3 * DAY_MS
    body = requests.body(0, at_ms)
    assert body["at"] == at_ms
    names = [*model.vector.keys, *(column.name for column in model.request)]
    before = [row for row in rows_of(small.labels) if parse_rfc3339(row["time"]) < at_ms]
    flat = {**body, **body["context"]}
    for name in names:
        expected = before[-1][name]
        assert flat[name] == pytest.approx(float(expected)) if not isinstance(flat[name], str) else flat[name] == expected


def test_candidates_are_different_and_share_the_rest_of_the_request(tmp_path: Path) -> None:
    files, labels = simulated("ads", tmp_path)
    example = example_of("ads")
    small = Small("ads", load_project(Settings.load(str(tmp_path / "home"), example.project)), files, labels)
    data = divided(small, tmp_path / "data")
    requests, at_ms = requests_of(small.model, data, 10), data.cut_ms + 5 * DAY_MS
    body, alone = requests.candidates(0, at_ms, example), requests.body(0, at_ms)
    candidates = [candidate["ad_id"] for candidate in body.pop("candidates")]
    assert len(candidates) == len(set(candidates)) > 5
    assert candidates[0] == alone.pop("ad_id")
    assert body == alone


def test_the_share_of_answers_within_a_budget() -> None:
    answers = Answers(seconds=[0.001, 0.002, 0.003, 0.2])
    assert answers.within(10) == 0.75
    assert answers.percentile_ms(50) == 2.5


def test_the_features_of_the_benchmark_are_those_of_the_declaration(small: Small) -> None:
    model = small.model
    points = label_points(model, small.files, small.labels)
    labels = rows_of(small.labels)
    assert len(points) == len(labels)
    begin_ms = parse_rfc3339(labels[0]["time"])
    later = points[points["q_ms"] > begin_ms + 14 * DAY_MS]
    events = {source: rows_of(small.files[source.name]) for source in small.project.sources}
    # Two points of each scenario with many events before them, because a point without events shows little.
    busy = later.assign(size=later[list(model.vector.inputs[0].feature_names)].sum(axis=1)).sort_values("size", ascending=False)
    chosen = [point for kind in sorted(set(later["scenario"])) for point in busy[busy["scenario"] == kind][:20:10].itertuples()]
    values_compared = 0
    for point in chosen:
        for entry in model.vector.inputs:
            values = [getattr(point, key) for key in entry.keys]
            entity = values[0] if len(values) == 1 else tuple(values)
            own = [
                event
                for event in events[entry.group.source]
                if [event[name] for name in entry.group.entity_names] == [str(value) for value in values]
            ]
            for kind, at_ms in (("", point.q_ms), ("batch_", point.q_ms - point.q_ms % DAY_MS)):
                for name, value in features_at(entry.group, own, entity, rfc3339(at_ms)).items():
                    cell = getattr(point, f"{kind}{entry.prefix}{name}")
                    assert math.isnan(cell) if value is None else cell == pytest.approx(value), (entry.group.name, kind, name)
                    values_compared += bool(value)
    assert values_compared > 20


def test_the_measures_of_a_known_order() -> None:
    rows = pd.DataFrame({"label": [1, 0, 1, 0], "day": [0, 0, 1, 1], "subject": [1, 2, 3, 4], "list_id": [0, 0, 1, 1]})
    scores, days = np.array([0.9, 0.8, 0.3, 0.4]), np.ones(2)
    assert MEASURES["AUC"](rows, scores)(days) == pytest.approx(0.5)
    assert MEASURES["average precision"](rows, scores)(days) == pytest.approx((1 + 0.5) / 2)
    assert MEASURES["recall at 1 % FPR"](rows, scores)(days) == pytest.approx(0.5)
    assert MEASURES["log loss"](rows, scores)(days) == pytest.approx(-np.log([0.9, 0.2, 0.3, 0.6]).mean())
    assert MEASURES["NDCG@10"](rows, scores)(days) == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert MEASURES["NDCG@10"](rows, scores)(np.array([2.0, 0.0])) == pytest.approx(1)
    assert MEASURES["subject precision@100"](rows, scores)(days) == pytest.approx(0.5)  # two subjects a day, one labelled
    assert MEASURES["calibration error"](rows, rows["label"].to_numpy(float))(days) == 0
