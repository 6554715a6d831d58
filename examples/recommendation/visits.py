"""The data of the recommendations: simulated visits of users, with the items that they viewed, the recommended items, and the clicks.

The shop has 3,000 items in 60 categories, some items far more popular than others. The tastes of a user are a share for each category. The intent of
a visit is a category: mostly one of the user's tastes, otherwise any category, such as for a present. In a visit the user views some items, most of
them from the category of the intent, and then sees a list of recommended items. One half of the list are popular items, some of them in their trend.
The other half are items of categories that the user likes or of the intent. A click does not depend on the place in the list. The logarithm of the
odds of a click is a sum of

    intent, taste           more if the item's category is the intent; more with the user's share of the category
    quality                 of the item, fixed
    trend                   for 3 to 12 hours an item is viewed, recommended and clicked more often

    1  new need             the intent is a category that the user hardly ever views
    2  trending item        the recommended item is in its trend
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.simulation import DAY_MS, END_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Episodes, Floats, Ints, episodes, rfc3339

CATEGORIES, ITEMS, VIEWS, LISTED = 60, 3_000, 6, 20
#: The sum of the parameters of the Dirichlet distribution of a user's tastes: a user likes a handful of categories.
TASTES = 3.75
#: The share of visits whose intent is drawn from the user's tastes, the share of views whose category is the intent, and the share of a category in
#: the user's tastes below which an intent is a new need.
LIKED, ON_INTENT, HARDLY = 0.65, 0.8, 0.05
#: The log odds of a click, and the weights of intent, taste, quality and trend.
BASE, INTENT, TASTE, QUALITY, TREND = -4.2, 1.8, 1.5, 0.7, 1.8
#: The number of trends per item and day, and the share of items in their trend among the views and among the popular items of a list.
TREND_RATE, TRENDING = 0.006, 0.1


@dataclass(frozen=True)
class Report:
    """The files that `generate` wrote.

    Attributes:
        visits: The CSV file of views, recommendations and clicks, with the columns of the source.
        labels: The CSV file with a row per recommended item: keys, popularity, time, scenario, list, and whether it was clicked.
    """

    visits: Path
    labels: Path


def generate(folder: Path, users: int = 800, days: int = 40, per_day: int = 300, seed: int = 1, end_ms: int = END_MS) -> Report:
    """Writes the two files to a folder. The same arguments lead to the same bytes.

    Args:
        folder: The folder; it is created if it does not exist.
        users: The number of users.
        days: The length of the simulated time.
        per_day: The number of visits per day, each with a list of recommendations.
        seed: The seed of the random generator.
        end_ms: The end of the simulated time, in ms since 1970. Midnight (UTC) preserves the times of day.
    """
    rng = np.random.default_rng(seed)
    tastes = rng.dirichlet(np.full(CATEGORIES, TASTES / CATEGORIES), users)
    category, quality = np.arange(ITEMS) % CATEGORIES, rng.normal(0, QUALITY, ITEMS)
    weight = np.exp(quality + rng.normal(0, 1, ITEMS))
    popularity = np.round(weight / weight.max(), 6)
    trends = episodes(rng, ITEMS, TREND_RATE, days, (3, 12))

    n = days * per_day
    time_of_day_ms = (rng.normal(17 * HOUR_MS, 4 * HOUR_MS, n) % DAY_MS).astype(np.int64)
    begin_ms = np.sort(rng.integers(days, size=n) * DAY_MS + time_of_day_ms)
    user, liked = rng.integers(users, size=n), rng.random(n) < LIKED
    intent = np.where(liked, _drawn(rng, tastes[user]), rng.integers(CATEGORIES, size=n))

    visit = np.repeat(np.arange(n), 2 + rng.poisson(VIEWS - 2, n))
    viewed_category = np.where(rng.random(len(visit)) < ON_INTENT, intent[visit], _drawn(rng, tastes[user[visit]]))
    viewed_ms = begin_ms[visit] + rng.integers(8 * MINUTE_MS, size=len(visit))
    viewed = _some_trending(rng, trends, _items_of(rng, viewed_category, category, weight), viewed_ms)

    listed = np.repeat(np.arange(n), LISTED)
    shown_ms = begin_ms[listed] + 8 * MINUTE_MS
    own = np.where(rng.random(len(listed)) < 0.3, intent[listed], _drawn(rng, tastes[user[listed]]))
    popular = _some_trending(rng, trends, rng.choice(ITEMS, len(listed), p=weight / weight.sum()), shown_ms)
    shown = np.where(np.arange(len(listed)) % 2 == 0, popular, _items_of(rng, own, category, weight))
    trend = trends.contain(shown, shown_ms)
    odds = (
        BASE
        + INTENT * (category[shown] == intent[listed])
        + TASTE * tastes[user[listed], category[shown]]
        + quality[shown]
        + TREND * trend
    )
    clicked = rng.random(len(odds)) < 1 / (1 + np.exp(-odds))
    clicked_ms = shown_ms + rng.integers(SECOND_MS, 5 * MINUTE_MS, len(shown))
    new_need = tastes[user, intent] < HARDLY
    scenario = np.where(trend, 2, np.where(new_need[listed], 1, 0))

    start_ms, end_of_data_ms = end_ms - days * DAY_MS, days * DAY_MS
    folder.mkdir(parents=True, exist_ok=True)
    shown_rows = _rows(user[listed], shown, category, popularity)
    events = [
        (at, f"v{place:07d},VIEW,,{row},{when}")
        for place, (at, row, when) in enumerate(
            zip(viewed_ms, _rows(user[visit], viewed, category, popularity), rfc3339(start_ms + viewed_ms), strict=True)
        )
    ]
    times = rfc3339(start_ms + shown_ms)
    events += [
        (at, f"s{place:07d},SHOWN,w{place:07d},{row},{when}")
        for place, (at, row, when) in enumerate(zip(shown_ms, shown_rows, times, strict=True))
    ]
    hits = np.flatnonzero(clicked)
    click_times = rfc3339(start_ms + clicked_ms[hits])
    events += [
        (clicked_ms[place], f"c{place:07d},CLICK,w{place:07d},{shown_rows[place]},{when}")
        for place, when in zip(hits, click_times, strict=True)
    ]
    inside = sorted(event for event in events if event[0] < end_of_data_ms)
    visits, labels = folder / "visits.csv", folder / "labels.csv"
    header = "event_id,event_type,shown_id,user_id,item_id,category,popularity,event_timestamp"
    visits.write_text("\n".join([header, *(line for _, line in inside), ""]))
    lines = (
        f"{row},{when},{kind},{place},{int(label)}"
        for row, at, when, kind, place, label in zip(shown_rows, shown_ms, times, scenario, listed, clicked, strict=True)
        if at < end_of_data_ms
    )
    labels.write_text("\n".join(["user_id,item_id,category,popularity,time,scenario,list_id,label", *lines, ""]))
    return Report(visits, labels)


def _drawn(rng: np.random.Generator, chances: Floats) -> Ints:
    """Returns a random category for each row of chances."""
    return np.minimum((np.cumsum(chances, axis=1) < rng.random(len(chances))[:, None]).sum(axis=1), CATEGORIES - 1)


def _items_of(rng: np.random.Generator, wanted: Ints, category: Ints, weight: Floats) -> Ints:
    """Returns for each wanted category a random item of the category, by weight."""
    chosen = np.empty(len(wanted), dtype=np.int64)
    for number in range(CATEGORIES):
        members, mask = np.flatnonzero(category == number), wanted == number
        chosen[mask] = rng.choice(members, mask.sum(), p=weight[members] / weight[members].sum())
    return chosen


def _some_trending(rng: np.random.Generator, trends: Episodes, items: Ints, at_ms: Ints) -> Ints:
    """Replaces the share `TRENDING` of the items by items that are in their trend, if there are any, and returns the items."""
    mask = rng.random(len(items)) < TRENDING
    trending = trends.members_at(rng, at_ms[mask])
    items[mask] = np.where(trending < 0, items[mask], trending)
    return items


def _rows(user: Ints, item: Ints, category: Ints, popularity: Floats) -> list[str]:
    return [f"{u},i{i:04d},k{category[i]:02d},{popularity[i]}" for u, i in zip(user, item, strict=True)]
