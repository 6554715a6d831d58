"""Every engine gives the right cells of every case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from features.aggregations import Value
from features.merge import merge
from tests.case_files import ENGINES, Case, Cells, load_cases
from tests.oracle import oracle
from tests.pure import Event, evaluated, tiles_of, trained, view_of

CASES = load_cases()
#: Gives the values of some cells, and the names of the features that it marks as degraded.
Engine = Callable[[Case, Cells], tuple[dict[str, Value], set[str]]]


def by_the_oracle(case: Case, cells: Cells) -> tuple[dict[str, Value], set[str]]:
    return oracle(case.group, case.counting, cells.entity, cells.q_ms), set(cells.degraded)


def by_the_pure_code(case: Case, cells: Cells) -> tuple[dict[str, Value], set[str]]:
    """View of the events before batch_end and tiles of those that were not late, merged; and the training set's fold."""
    group, events = case.group, case.counting
    entity_id = cells.id_in(group)
    ids, present = evaluated(group.source, events, [group.entity_sql, group.has_entity_sql])
    mine: list[Event] = sorted(
        (event for event, own_id, has_entity in zip(events, ids, present, strict=True) if has_entity and own_id == entity_id),
        key=lambda event: event["ts_ms"],
    )
    view = view_of(group, mine, case.batch_end_ms) if any(event["ts_ms"] < case.batch_end_ms for event in mine) else None
    tiles = tiles_of(group, [event for event in mine if not event["late"]])
    merged = merge(group, view, tiles, cells.q_ms, case.batch_end_ms)
    degraded = {group.feature_names[index] for index in merged.degraded_features}
    values = dict(zip(group.feature_names, merged.values, strict=True))
    row = dict(zip(group.feature_names, trained(group, mine, cells.q_ms), strict=True))
    assert {k: v for k, v in values.items() if k not in degraded} == {k: v for k, v in row.items() if k not in degraded}
    return values, degraded


RUN: dict[str, Engine] = {"oracle": by_the_oracle, "pure": by_the_pure_code}


@pytest.mark.parametrize("engine", RUN)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_engine_gives_the_right_cells(case: Case, engine: str, request: pytest.FixtureRequest) -> None:
    case.expect(engine, request)
    for cells in case.cells:
        cells.check(*RUN[engine](case, cells))


def test_a_case_is_whole() -> None:
    assert len(CASES) >= 8
    for case in CASES:
        assert case.says.endswith("."), case.name
        assert case.cells, case.name
        assert set(case.skip) <= set(ENGINES), case.name
        for cells in case.cells:
            assert cells.q_ms >= case.batch_end_ms, case.name
            assert cells.values.keys() | set(cells.degraded) == set(case.group.feature_names), case.name
