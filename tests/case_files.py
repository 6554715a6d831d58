"""The cases of `cases/*.yaml` as values: a declaration, events, and the right cells. `cases/README.md` has their form."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from features import declaration
from features.aggregations import Value
from features.declaration import FeatureGroup
from features.sources import Column, ColumnType, EventSource
from tests.pure import Event

FOLDER = Path(__file__).parents[1] / "cases"
#: Who may be named in `skip`.
ENGINES = ("oracle", "pure", "batch", "stream", "training_set", "flink")
SOURCE = EventSource(
    "cases", "cases", "cases",
    (
        Column("event_id", required=True), Column("user_id", ColumnType.INT64), Column("session_id"), Column("event_type"), Column("item_id"),
        Column("amount", ColumnType.DECIMAL), Column("points", ColumnType.INT64), Column("event_timestamp", ColumnType.TIMESTAMP, required=True),
    ),
    key="event_id", earliest="1900-01-01",
)  # fmt: skip


@dataclass(frozen=True)
class Cells:
    """The right values of one entity at one instant, and which features an engine with two layers marks as degraded."""

    entity: int | str | list[int | str]
    q_ms: int
    values: dict[str, Value]
    degraded: tuple[str, ...]

    def id_in(self, group: FeatureGroup) -> int | str:
        """The id that the entity has in a group."""
        return self.entity if isinstance(self.entity, int | str) else group.id_of(self.entity)

    def check(self, values: dict[str, Value], degraded: set[str]) -> None:
        """Fails where values differ that no feature's mark excuses, or where other features are marked."""
        assert degraded == set(self.degraded), (self, degraded)
        assert {name: value for name, value in values.items() if name not in degraded} == self.values, (self, values)


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: The file's name.
        says: The sentence that it shows.
        group: The declaration.
        events: Rows of the source with `ts_ms`, `arrival_ms`, `partition`, `offset` and `late`; copies among them.
        batch_end_ms: Where batch ends and speed begins.
        cells: What is right.
        skip: Engine → why it cannot do this yet.
    """

    name: str
    says: str
    group: FeatureGroup
    events: tuple[Event, ...]
    batch_end_ms: int
    cells: tuple[Cells, ...]
    skip: dict[str, str]

    @property
    def counting(self) -> list[Event]:
        """The events that count: of the copies of an event the first to arrive."""
        latest_first = sorted(
            self.events, key=lambda event: [event[name] for name in ("arrival_ms", "partition", "offset")], reverse=True
        )
        return list({event["event_id"]: event for event in latest_first}.values())

    def expect(self, engine: str, request: pytest.FixtureRequest) -> None:
        """Lets a test of an engine that cannot do this yet fail, for the reason in the file."""
        if engine in self.skip:
            request.applymarker(pytest.mark.xfail(reason=self.skip[engine], strict=True))


def load_cases() -> list[Case]:
    """All cases, by the name of their files."""
    return [_case(path) for path in sorted(FOLDER.glob("*.yaml"))]


def _case(path: Path) -> Case:
    case = yaml.safe_load(path.read_text())
    group = case["group"]
    features = tuple(_feature(name, **options) for name, options in group.pop("features").items())
    return Case(
        name=path.stem,
        says=case["says"],
        group=FeatureGroup(name=path.stem, source=SOURCE, features=features, **group),
        events=tuple(_event(place, **event) for place, event in enumerate(case["events"])),
        batch_end_ms=_ms(case["batch_end"]),
        cells=tuple(
            Cells(cells["entity"], _ms(cells["at"]), cells["values"], tuple(cells.get("degraded", ()))) for cells in case["cells"]
        ),
        skip=case.get("skip", {}),
    )


def _feature(name: str, make: str, **options: Any) -> declaration.Feature:
    return getattr(declaration, make)(name, **options)


def _event(place: int, event_timestamp: datetime, arrival: datetime | None = None, **columns: Any) -> Event:
    amount = columns.pop("amount", None)
    unknown = columns.keys() - {column.name for column in SOURCE.columns} - {"partition", "offset", "late"}
    assert not unknown, unknown
    ts_ms, amount = _ms(event_timestamp), None if amount is None else Fraction(amount)
    arrival_ms = ts_ms if arrival is None else _ms(arrival)
    values: Event = {column.name: None for column in SOURCE.columns}
    return {
        **values,
        "partition": 0,
        "offset": place,
        "late": False,
        **columns,
        "amount": amount,
        "ts_ms": ts_ms,
        "arrival_ms": arrival_ms,
    }


def _ms(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
