"""The simulated data of the ad exchange; `test_examples` has what holds for all examples."""

from __future__ import annotations

import pandas as pd
import pytest

from examples.ads.impressions import generate
from examples.simulation import DAY_MS, HOUR_MS, MINUTE_MS


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events and labels; the events with `ms`, their time in milliseconds."""
    report = generate(tmp_path_factory.mktemp("ads"), users=300, days=20, per_day=3_000)
    events = pd.read_csv(report.ad_events)
    return events.assign(ms=pd.to_datetime(events["event_timestamp"], format="ISO8601").astype("int64") // 1_000_000), pd.read_csv(
        report.labels
    )


def test_a_click_follows_its_impression_within_a_minute(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    events, labels = frames
    shown, clicked = (events[events["event_type"] == kind].set_index("impression_id") for kind in ("IMPRESSION", "CLICK"))
    assert len(shown) == len(labels)
    assert 0.02 < labels["label"].mean() < 0.15
    assert len(clicked) <= labels["label"].sum() <= len(clicked) + 5
    both = clicked.join(shown, rsuffix="_shown")
    assert (both["ad_id"] == both["ad_id_shown"]).all()
    assert (both["ms"] - both["ms_shown"]).between(1, MINUTE_MS).all()


def test_episodes_change_the_rate_of_clicks(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    _, labels = frames
    rates = labels.groupby("scenario")["label"].mean()
    assert rates[3] < rates[0] / 4
    assert rates[2] > rates[0] * 1.5


def test_an_ad_runs_for_some_days_and_is_new_on_the_first(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    events, labels = frames
    shown = events[events["event_type"] == "IMPRESSION"].reset_index(drop=True).assign(scenario=labels["scenario"])
    spans = shown.groupby("ad_id")["ms"].agg(["min", "max"])
    # The ad that runs all the time is the only longer one.
    assert ((spans["max"] - spans["min"]) > 17 * DAY_MS).sum() <= 1
    new = shown[shown["scenario"] == 1].groupby("ad_id")["ms"].agg(["min", "max"])
    assert ((new["max"] - new["min"]) < 24 * HOUR_MS).all()
    assert len(new) > 10
