"""The data of the ad exchange: simulated impressions in sessions of users, and their clicks.

A user visits in sessions of several impressions, a minute or two apart. Each impression has a slot, one of the ads that run at that time, and
a page: a hash of the page's topic and the device. The logarithm of the odds of a click is a sum of

    user, ad, slot          fixed for each
    topic and ad            a fixed taste for ads of some topics
    mood                    of the session: what a user wants at the moment
    fatigue                 less with each impression of the session
    hour of the day         more in the evening
    episodes                below

    1  new ad               the first 24 hours of an ad: at its start nothing is known about it
    2  trending ad          for 2 to 8 hours an ad is clicked much more often
    3  fault                for 1 to 6 hours an ad or a slot is hardly ever clicked, because it is not shown as it should be

The rates are higher than those of banners, as on a page of sponsored offers, so that days of data suffice. A click follows within a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.simulation import DAY_MS, END_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Bools, Floats, Ints, in_episodes, rfc3339, shares

#: The log odds of a click of an average user, ad and slot, and the standard deviations of the parts of the sum.
BASE, USER, AD, SLOT, TASTE, MOOD = -3.2, 0.5, 0.7, 0.6, 0.4, 0.9
#: The change of the log odds with each further impression of a session, up to `TIRED` impressions; in the evening; and in the episodes.
FATIGUE, TIRED, EVENING, TRENDING, FAULT = -0.12, 8, 0.3, 1.3, -4.0
#: The numbers of ads that run at the same time, of slots, of topics, and of devices.
RUNNING, SLOTS, TOPICS, DEVICES = 20, 10, 8, 3
#: Episodes per ad and day, and per slot and day.
TRENDING_RATE, AD_FAULT_RATE, SLOT_FAULT_RATE = 0.08, 0.05, 0.08
#: The mean number of impressions of a session after the first, and the mean pause between them.
MORE, PAUSE_MS = 4.0, 80 * SECOND_MS


@dataclass(frozen=True)
class Report:
    """The files that `generate` wrote.

    Attributes:
        ad_events: The CSV file of impressions and clicks, with the columns of the source.
        labels: The CSV file with a row per impression: keys, page, time, scenario, and whether a click followed.
        impressions: The number of impressions.
        clicks: The number of clicks.
    """

    ad_events: Path
    labels: Path
    impressions: int
    clicks: int


@dataclass(frozen=True)
class _Ads:
    begin_ms: Ints
    end_ms: Ints
    weight: Floats
    effect: Floats
    topic: Ints


def generate(
    folder: Path, users: int = 4_000, days: int = 40, per_day: int = 15_000, seed: int = 1, end_ms: int = END_MS
) -> Report:
    """Writes the two files to a folder. The same arguments lead to the same bytes.

    Args:
        folder: The folder; it is created if it does not exist.
        users: The number of users.
        days: The length of the simulated time.
        per_day: The approximate number of impressions per day.
        seed: The seed of the random generator.
        end_ms: The end of the simulated time, in ms since 1970. Midnight (UTC) preserves the times of day.
    """
    rng = np.random.default_rng(seed)
    ads = _ads(rng, days)
    user, session, position, at_ms = _sessions(rng, users, days, round(per_day * days / (1 + MORE)))
    topic, device = rng.integers(TOPICS, size=session.max() + 1)[session], rng.integers(DEVICES, size=users)[user]
    slot = rng.choice(SLOTS, len(at_ms), p=shares(rng, SLOTS))
    ad = _chosen_ads(rng, ads, at_ms)
    trending = in_episodes(rng, ad, at_ms, len(ads.weight), TRENDING_RATE, days, (2, 8))
    fault = in_episodes(rng, ad, at_ms, len(ads.weight), AD_FAULT_RATE, days, (1, 6))
    fault |= in_episodes(rng, slot, at_ms, SLOTS, SLOT_FAULT_RATE, days, (1, 6))
    evening = np.sin((at_ms % DAY_MS / DAY_MS - 0.55) * 2 * np.pi)
    odds = (
        BASE + rng.normal(0, USER, users)[user] + ads.effect[ad] + rng.normal(0, SLOT, SLOTS)[slot]
        + rng.normal(0, TASTE, (TOPICS, TOPICS))[topic, ads.topic[ad]] + rng.normal(0, MOOD, session.max() + 1)[session]
        + FATIGUE * np.minimum(position, TIRED) + EVENING * evening + TRENDING * trending + FAULT * fault
    )  # fmt: skip
    clicked = rng.random(len(odds)) < 1 / (1 + np.exp(-odds))
    clicked_ms = at_ms + rng.integers(SECOND_MS, MINUTE_MS, len(at_ms))
    scenario = np.where(fault, 3, np.where(trending, 2, np.where(at_ms - ads.begin_ms[ad] < DAY_MS, 1, 0)))
    # Ads that run from the beginning are not new.
    scenario[(scenario == 1) & (ads.begin_ms[ad] < 0)] = 0
    return _write(folder, user, ad, slot, topic * DEVICES + device, at_ms, clicked, clicked_ms, scenario, days, end_ms)


def _ads(rng: np.random.Generator, days: int) -> _Ads:
    """Returns ads that begin at any time, some before the simulated time, and run for 3 to 17 days."""
    n = round(RUNNING * (days + 17) / 10)
    begin_ms = rng.integers(-17 * DAY_MS, days * DAY_MS, n)
    length_ms = rng.integers(3 * DAY_MS, 17 * DAY_MS, n)
    # The first ad runs all the time, so that there is always an ad to show.
    begin_ms[0], length_ms[0] = -DAY_MS, (days + 2) * DAY_MS
    return _Ads(begin_ms, begin_ms + length_ms, rng.gamma(3.0, 1.0, n), rng.normal(0, AD, n), rng.integers(TOPICS, size=n))


def _sessions(rng: np.random.Generator, users: int, days: int, n: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Returns the user, the session, the position in the session and the time of each impression, ordered by time."""
    activity = rng.pareto(1.5, users) + 0.2
    user_of = rng.choice(users, n, p=activity / activity.sum())
    time_of_day_ms = (rng.normal(16 * HOUR_MS, 5 * HOUR_MS, n) % DAY_MS).astype(np.int64)
    begin_ms = rng.integers(days, size=n) * DAY_MS + time_of_day_ms
    length = 1 + rng.poisson(MORE, n)
    session = np.repeat(np.arange(n), length)
    position = np.arange(len(session)) - np.repeat(np.cumsum(length) - length, length)
    pauses = np.where(position > 0, rng.exponential(PAUSE_MS, len(session)), 0)
    elapsed = np.cumsum(pauses)
    at_ms = begin_ms[session] + (elapsed - elapsed[np.cumsum(length) - length][session]).astype(np.int64)
    order = np.argsort(at_ms, kind="stable")
    order = order[at_ms[order] < days * DAY_MS]
    return user_of[session[order]], session[order], position[order], at_ms[order]


def _chosen_ads(rng: np.random.Generator, ads: _Ads, at_ms: Ints) -> Ints:
    """Returns for each impression an ad that runs at its time, by weight. The running ads are determined once per 10 minutes."""
    chosen = np.zeros(len(at_ms), dtype=np.int64)
    period = at_ms // (10 * MINUTE_MS)
    bounds = np.flatnonzero(np.diff(period, prepend=-1))
    for begin, end in zip(bounds, [*bounds[1:], len(at_ms)], strict=True):
        running = np.flatnonzero((ads.begin_ms <= at_ms[begin]) & (ads.end_ms > at_ms[begin]))
        weight = ads.weight[running]
        chosen[begin:end] = running[np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(end - begin))]
    return chosen


def _write(
    folder: Path, user: Ints, ad: Ints, slot: Ints, page: Ints, at_ms: Ints, clicked: Bools, clicked_ms: Ints,
    scenario: Ints, days: int, end_ms: int,
) -> Report:  # fmt: skip
    begin_ms = end_ms - days * DAY_MS
    folder.mkdir(parents=True, exist_ok=True)
    ids, ad_ids, slot_ids = (
        np.char.mod(form, column) for form, column in (("i%07d", np.arange(len(ad))), ("ad%04d", ad), ("slot%02d", slot))
    )
    pages, times = np.char.mod("c%04x", page * 2_654_435_761 % 65_521), rfc3339(begin_ms + at_ms)
    events = [
        (at, f"{i}s,IMPRESSION,{i},{u},{a},{s},{c},{when}")
        for at, i, u, a, s, c, when in zip(at_ms, ids, user, ad_ids, slot_ids, pages, times, strict=True)
    ]
    hits = np.flatnonzero(clicked & (clicked_ms < days * DAY_MS))
    columns = (
        clicked_ms[hits],
        ids[hits],
        user[hits],
        ad_ids[hits],
        slot_ids[hits],
        pages[hits],
        rfc3339(begin_ms + clicked_ms[hits]),
    )
    events += [(at, f"{i}c,CLICK,{i},{u},{a},{s},{c},{when}") for at, i, u, a, s, c, when in zip(*columns, strict=True)]
    events.sort()
    path, labels = folder / "ad_events.csv", folder / "labels.csv"
    header = "event_id,event_type,impression_id,user_id,ad_id,slot_id,page,event_timestamp"
    path.write_text("\n".join([header, *(line for _, line in events), ""]))
    rows = zip(user, ad_ids, slot_ids, pages, times, scenario, clicked, strict=True)
    lines = (f"{u},{a},{s},{c},{when},{kind},{int(label)}" for u, a, s, c, when, kind, label in rows)
    labels.write_text("\n".join(["user_id,ad_id,slot_id,page,time,scenario,label", *lines, ""]))
    return Report(path, labels, len(ad), len(hits))
