"""The progress of all queries as one."""

from __future__ import annotations

from speed.progress import summary


def test_a_query_of_two_groups_counts_its_rows_once_and_the_queries_of_two_sources_add_up() -> None:
    events = [{"offsets": {"0": offset}, "late_rows": 7, "copies": 3, "lag": 0} for offset in (5, 4)]
    views = [{"offsets": {"0": 9}, "late_rows": 1, "lag": 2}]
    total = summary([events, views])
    assert (total["late_rows"], total["copies"]) == (8, 3)
    assert (total["offsets"], total["lag"]) == ({"0": 4}, 2)
    assert summary([])["late_rows"] == 0
