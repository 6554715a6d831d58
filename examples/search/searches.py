"""The data of the search: simulated queries on a news site, the documents that were shown for each, and the clicks.

A document can be found for ten days after its publication. A query belongs to a topic; popular queries are more frequent. The text search finds
documents, mostly of the query's topic, with a score that only partly shows how well a document fits. All found documents are shown in a random order
on one page, so a click does not depend on the rank. On a real page a click does, and must be corrected for the rank. The logarithm of the odds of a
click is a sum of

    fit                     of the query and the document, fixed; the score of the text search is this fit with noise
    quality                 of the document, fixed
    episodes                below

    1  new document         the first 24 hours of a document: at its start nothing is known about it
    2  in the news          for 2 to 10 hours a document is clicked much more often
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.simulation import DAY_MS, END_MS, HOUR_MS, SECOND_MS, Ints, in_episodes, rfc3339, shares

#: The numbers of queries, of topics, of new documents per day, of days in which a document is found, and of documents on a page.
QUERIES, TOPICS, NEW, FOUND_DAYS, SHOWN = 60, 6, 20, 10, 20
#: The log odds of a click of an average document, the weight of the fit, the deviations of quality and of the score's noise, and of the news.
BASE, FIT, QUALITY, NOISE, NEWS = -3.6, 1.2, 0.8, 1.0, 2.2
#: The number of episodes per document and day; and the weight with which documents of the query's topic are drawn, which makes them about 93 % of
#: the found documents.
NEWS_RATE, ON_TOPIC = 0.1, 0.8


@dataclass(frozen=True)
class Report:
    """The files that `generate` wrote.

    Attributes:
        results: The CSV file of shown documents and clicks, with the columns of the source.
        labels: The CSV file with a row per shown document: keys, text match, time, scenario, list, and whether it was clicked.
        shown: The number of shown documents.
        clicks: The number of clicks.
    """

    results: Path
    labels: Path
    shown: int
    clicks: int


def generate(folder: Path, days: int = 30, per_day: int = 500, seed: int = 1, end_ms: int = END_MS) -> Report:
    """Writes the two files to a folder. The same arguments lead to the same bytes.

    Args:
        folder: The folder; it is created if it does not exist.
        days: The length of the simulated time.
        per_day: The number of searches per day.
        seed: The seed of the random generator.
        end_ms: The end of the simulated time, in ms since 1970. Midnight (UTC) preserves the times of day.
    """
    rng = np.random.default_rng(seed)
    n = days * per_day
    time_of_day_ms = (rng.normal(15 * HOUR_MS, 5 * HOUR_MS, n) % DAY_MS).astype(np.int64)
    asked_ms = np.sort(rng.integers(days, size=n) * DAY_MS + time_of_day_ms)
    query, user = rng.choice(QUERIES, n, p=shares(rng, QUERIES)), rng.integers(2_000, size=n)
    topic_of_query = rng.integers(TOPICS, size=QUERIES)
    n_documents = NEW * (days + FOUND_DAYS)
    topic_of_document, quality = rng.integers(TOPICS, size=n_documents), rng.normal(0, QUALITY, n_documents)
    begin_ms = rng.integers(-FOUND_DAYS * DAY_MS, days * DAY_MS, size=n_documents)
    end_of_ms = begin_ms + FOUND_DAYS * DAY_MS
    same_topic = topic_of_query[:, None] == topic_of_document
    fit = rng.normal(0, 1, (QUERIES, n_documents)) + np.where(same_topic, 1.0, -1.0)
    score = 1 / (1 + np.exp(-(fit + rng.normal(0, NOISE, fit.shape))))

    document = np.concatenate(
        [_found(rng, same_topic[query[place]], (begin_ms < asked_ms[place]) & (asked_ms[place] < end_of_ms)) for place in range(n)]
    )
    search = np.repeat(np.arange(n), SHOWN)
    at_ms = asked_ms[search]
    news = in_episodes(rng, document, at_ms, n_documents, NEWS_RATE, days, (2, 10))
    odds = BASE + FIT * fit[query[search], document] + quality[document] + NEWS * news
    clicked = rng.random(len(odds)) < 1 / (1 + np.exp(-odds))
    clicked_ms = at_ms + rng.integers(SECOND_MS, 300 * SECOND_MS, len(at_ms))
    new = (at_ms - begin_ms[document] < DAY_MS) & (begin_ms[document] >= 0)
    scenario = np.where(news, 2, np.where(new, 1, 0))
    match = np.round(score[query[search], document], 3)
    return _write(folder, search, user[search], document, query[search], match, at_ms, clicked, clicked_ms, scenario, days, end_ms)


def _found(rng: np.random.Generator, on_topic: Ints, published: Ints) -> Ints:
    """Returns the documents that the text search finds: `SHOWN` different documents, most of them of the query's topic."""
    weights = np.where(
        published, np.where(on_topic, ON_TOPIC / max(1, (on_topic & published).sum()), (1 - ON_TOPIC) / len(on_topic)), 0.0
    )
    # The smallest keys of an exponential race are a sample without replacement by weight.
    keys = np.where(weights > 0, rng.exponential(size=len(weights)) / np.maximum(weights, 1e-12), np.inf)
    return np.asarray(np.argpartition(keys, SHOWN)[:SHOWN], dtype=np.int64)


def _write(
    folder: Path, search: Ints, user: Ints, document: Ints, query: Ints, match: Ints, at_ms: Ints, clicked: Ints, clicked_ms: Ints,
    scenario: Ints, days: int, end_ms: int,
) -> Report:  # fmt: skip
    begin_ms = end_ms - days * DAY_MS
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{i:07d},s{s:06d},{u},d{d:04d},q{q:03d},{m}"
        for i, s, u, d, q, m in zip(range(len(search)), search, user, document, query, match, strict=True)
    ]
    events = [(at, f"v{row[:7]},SHOWN,w{row},{when}") for at, row, when in zip(at_ms, rows, rfc3339(begin_ms + at_ms), strict=True)]
    hits = np.flatnonzero((clicked > 0) & (clicked_ms < days * DAY_MS))
    events += [
        (clicked_ms[place], f"c{rows[place][:7]},CLICK,w{rows[place]},{when}")
        for place, when in zip(hits, rfc3339(begin_ms + clicked_ms[hits]), strict=True)
    ]
    events.sort()
    path, labels = folder / "results.csv", folder / "labels.csv"
    header = "event_id,event_type,shown_id,search_id,user_id,document_id,query_id,text_match,event_timestamp"
    path.write_text("\n".join([header, *(line for _, line in events), ""]))
    lines = (
        f"d{d:04d},q{q:03d},{m},{when},{kind},{s},{int(label)}"
        for d, q, m, when, kind, s, label in zip(
            document, query, match, rfc3339(begin_ms + at_ms), scenario, search, clicked, strict=True
        )
    )
    labels.write_text("\n".join(["document_id,query_id,text_match,time,scenario,list_id,label", *lines, ""]))
    return Report(path, labels, len(search), len(hits))
