"""`braid compare`: the division of the events, the probes, the changed declaration, the report; and, as a long test, the whole of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from features.declaration import FeatureGroup, count
from features.packed import FORMAT, TileValue, encode_log
from features.speed_value import pack_tile
from features.windows import DAY_MS, HOUR_MS
from infra.errors import NoEventsError
from infra.project import load_project
from infra.settings import Settings
from orchestration.cli.compare import VARIANTS
from orchestration.compare.declared import ADDED, write_definitions
from orchestration.compare.events import divided
from orchestration.compare.freshness import Probe, Watch, percentiles, probe_of
from orchestration.compare.report import MEASURES, markdown, plot
from store.server import open_store
from tests.declarations import project, user_events, user_features

NOW_MS = int(datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp() * 1_000)
START_MS = NOW_MS - user_features.tile_ms


def written(path: Path, instants_ms: list[int]) -> Path:
    """A file of purchases at these instants."""
    rows = [
        {
            "event_id": f"e{index}", "user_id": str(index % 7), "session_id": "s", "event_type": "PURCHASE", "amount": "1.50", "item_id": None,
            "event_timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds"),
        }
        for index, at in enumerate(instants_ms)
    ]  # fmt: skip
    lines = path.with_suffix(".jsonl")
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    typed = "event_id, user_id::BIGINT AS user_id, session_id, event_type, amount::DECIMAL(18, 6) AS amount, item_id::VARCHAR AS item_id"
    columns = dict.fromkeys(rows[0], "VARCHAR")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        read = f"SELECT {typed}, event_timestamp::TIMESTAMPTZ AS event_timestamp FROM read_json('{lines}', columns = {columns})"
        connection.execute(f"COPY ({read}) TO '{path}' (FORMAT parquet)")
    return path


def times_of(path: Path) -> list[int]:
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT epoch_ms(event_timestamp) FROM read_parquet('{path}')").fetchall()
    return [at for (at,) in rows]


@pytest.mark.parametrize(
    ("streamed", "live_hours"),
    [(5, 5), (1_000, 48)],  # the buffer of two days bounds the live part
)
def test_the_last_events_are_streamed_and_those_of_the_days_before_are_loaded(
    tmp_path: Path, streamed: int, live_hours: int
) -> None:
    instants_ms = [NOW_MS - hours * HOUR_MS for hours in range(240)]
    path = written(tmp_path / "all.parquet", instants_ms)
    files = {"user_events": [path, path]}  # each event twice, as where both the table of events and the archive have it
    events = divided(project, files, tmp_path / "parts", streamed, days=3)
    live, history = times_of(events.live(user_events)), times_of(events.history(user_events))
    assert live == sorted(instants_ms[: len(live)])
    assert events.streamed == {"user_events": live_hours}
    assert (events.cut_ms, events.end_ms) == (min(live), NOW_MS + 1)
    assert history == sorted(at for at in instants_ms if events.cut_ms - 3 * DAY_MS <= at < events.cut_ms)
    assert events.loaded == {"user_events": len(history)} == {"user_events": 72}


def test_without_events_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(NoEventsError):
        divided(project, {}, tmp_path, 10, 3)


def test_a_changed_declaration_has_one_more_feature_in_each_group_and_no_model(tmp_path: Path, settings: Settings) -> None:
    declared = write_definitions(tmp_path / "definitions.py", settings, changed=False)
    assert declared.groups == project.groups
    assert project.models
    assert declared.models == ()
    write_definitions(tmp_path / "changed.py", settings, changed=True)
    changed = load_project(settings.model_copy(update={"project": f"{tmp_path / 'changed.py'}:project"}))
    assert [group.features for group in changed.groups] == [(*group.features, ADDED) for group in project.groups]


@pytest.mark.parametrize(
    ("entity", "row", "entity_id"),
    [
        ("user_id", {"user_id": "7"}, 7),
        ("item_id", {"item_id": "t"}, "t"),
        ("item_id", {"item_id": None}, None),
        (("user_id", "item_id"), {"user_id": "7", "item_id": "a/b"}, "7/a~1b"),
    ],
)
def test_the_last_event_of_a_batch_is_a_probe_if_it_has_the_entity(
    entity: str | tuple[str, ...], row: dict[str, Any], entity_id: int | str | None
) -> None:
    group = FeatureGroup("probed", entity, user_events, (count("events_1h", window="1h"),))
    last = {"user_id": "1", "item_id": "x", **row, "event_timestamp": "2026-06-15T12:00:00.123Z"}
    batch = pa.RecordBatch.from_pylist([{**last, "user_id": "2", "event_timestamp": "2026-06-15T11:00:00Z"}, last])
    assert probe_of(group, batch) == (None if entity_id is None else Probe(group, entity_id, NOW_MS + 123))


def test_a_probe_is_known_when_a_tile_has_an_event_of_its_time_or_later(valkey: Settings) -> None:
    def tile(last_ms: int) -> bytes:
        partials = [feature.aggregation.lift(last_ms, 1) for feature in user_features.features]
        return pack_tile(
            user_features, START_MS, TileValue(FORMAT, user_features.fingerprint, last_ms, last_ms, partials, encode_log([]))
        )

    watch = Watch(valkey)
    known, early, later = 9_000_001, 9_000_002, 9_000_003  # no other test of the store has them
    for user in (known, early, later):
        watch.add(Probe(user_features, user, NOW_MS), counts=True)
    assert watch.look() == 0
    open_store(valkey).put_tiles(
        user_features,
        [(known, START_MS, tile(NOW_MS)), (early, START_MS, tile(NOW_MS - 1)), (later, START_MS, tile(NOW_MS + 1))],
        600,
    )
    assert watch.look() == 2
    assert len(watch.waited_ms) == 2
    assert [probe.entity_id for probe in watch.pending] == [early]
    warming = Watch(valkey)
    warming.add(Probe(user_features, known, NOW_MS), counts=False)
    assert warming.look() == 1
    assert warming.waited_ms == [], "it was sent while the engine warms up"
    assert percentiles([]) == {}
    assert percentiles([1.0, 2.0, 3.0])["freshness_p50_ms"] == 2


def test_the_table_and_the_plot_have_every_figure(tmp_path: Path) -> None:
    figures = {"lambda": dict(zip(MEASURES, range(100, 200), strict=False)), "kappa": {"freshness_p50_ms": 12_345}}
    lines = markdown(figures).splitlines()
    assert lines[2] == "| freshness p50, ms | 100 | 12,345 |"
    assert lines[3] == "| freshness p99, ms | 101 | – |"
    assert len(lines) == 2 + len(MEASURES)
    plot(figures, tmp_path / "figures.svg")
    drawn = (tmp_path / "figures.svg").read_text()
    assert all(text in drawn for text in ("freshness p50, ms", "12,345", "lambda", "kappa"))


@pytest.mark.parametrize(
    ("options", "error"),
    [(["--only", "omega"], "no variant 'omega'"), (["--plot", "figures.txt"], "cannot be written to figures.txt")],
)
def test_a_wrong_option_is_an_error(tmp_path: Path, options: list[str], error: str) -> None:
    done = braid(tmp_path, *options)
    assert done.returncode == 1
    assert error in done.stderr
    assert not (tmp_path / "compare").exists(), "nothing was begun"


@pytest.mark.stack
@pytest.mark.long
@pytest.mark.timeout(2_400)
def test_every_variant_answers_as_brute_force_and_its_figures_are_there(tmp_path: Path) -> None:
    source = random.Random(3)
    instants_ms = sorted(NOW_MS - source.randrange(40 * DAY_MS) for _ in range(3_000))
    lines = [
        {
            "event_id": f"e{index}", "user_id": source.randrange(40), "session_id": f"s{source.randrange(9)}", "amount": source.randrange(9_999) / 100,
            "event_type": source.choice(["PURCHASE", "VIEW"]), "item_id": f"i{source.randrange(20)}",
            "event_timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds"),
        }
        for index, at in enumerate(instants_ms)
    ]  # fmt: skip
    (tmp_path / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, "-m", "orchestration.cli", "--home", str(tmp_path / "home"), "load", str(tmp_path / "events.jsonl")]
    subprocess.run(command, check=True, capture_output=True)
    done = braid(tmp_path / "home", "--rate", "20", "--seconds", "5", "--plot", str(tmp_path / "figures.svg"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert tuple(figures) == VARIANTS
    for variant, of_variant in figures.items():
        assert set(of_variant) == set(MEASURES), variant
        assert (of_variant["cells_different"], of_variant["entities_degraded"]) == (0, 0)
        assert of_variant["cells_compared"] == 3 * 60 * 6 + 60 * 7, "four comparisons, the last with one more feature"
        assert all(value > 0 for name, value in of_variant.items() if name not in ("cells_different", "entities_degraded"))
    assert (tmp_path / "figures.svg").exists()
    assert not (tmp_path / "home" / "compare").exists()


def braid(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestration.cli", "--home", str(home), "compare", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
