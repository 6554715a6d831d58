"""The verdict of a soak: which service grows, whatever single samples show."""

from __future__ import annotations

import pytest

from benchmarks.soak import Sample, figures_of, mixed_requests

MIB = 1_024 * 1_024


def samples(mib_per_hour: float, first_half_mib: float = 0, pids: tuple[int, int] = (7, 7)) -> list[Sample]:
    """Half an hour of samples with a noise of 1 MiB and one peak, and a growth in the first half alone."""
    rows = []
    for place in range(360):
        seconds = place * 5.0
        mib = 500 + mib_per_hour * seconds / 3_600 + first_half_mib * min(1.0, place / 180) + place % 2 + 100 * (place == 270)
        rows.append(Sample(seconds, pids[place // 180], 2, int(mib * MIB), 40 + place % 3))
    return rows


@pytest.mark.parametrize(("mib_per_hour", "flat"), [(0, True), (-200, True), (10, True), (100, False)])
def test_a_service_is_flat_unless_it_grows_in_the_second_half(mib_per_hour: float, flat: bool) -> None:
    figures = figures_of(samples(mib_per_hour, first_half_mib=300))
    assert figures["bytes"]["flat"] is flat
    assert figures["bytes"]["per_hour"] == pytest.approx(mib_per_hour * MIB, abs=2 * MIB)
    assert figures["descriptors"]["flat"] is True
    assert figures["bytes"]["end"] - figures["bytes"]["start"] > 100 * MIB


def test_a_restart_is_reported() -> None:
    assert [figures_of(samples(0, pids=pids))["restarts"] for pids in ((7, 7), (7, 8))] == [0, 1]


def test_the_requests_of_the_load_are_mixed() -> None:
    requests = mixed_requests()
    assert len(requests) == 1_000
    assert {request.split(b" ")[1] for request in requests[:50]} == {b"/predict", b"/features"}
    assert not any(b'"at"' in request for request in requests), "they are about the moment at which they are sent"
