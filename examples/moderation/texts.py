"""The data of the forum: simulated texts by author and room, some of them abuse, and the removals by moderators some time later.

Texts are words of a made-up vocabulary, so their meaning shows nothing. Their length, their links and their capital letters do.

    1  habitual abuser   at all times a third of the author's texts are abuse
    2  link spam         two to five links, often shouted: visible in the text itself
    3  raid              within 10 to 60 minutes 15 to 60 authors write the same text in a room
    4  hijacked account  within 5 to 40 minutes 10 to 40 different texts in many rooms by any author, mostly one who seldom writes

Harmless behaviour that looks like abuse: conversations (an author writes many texts within minutes in a room), announcements (an author writes
different texts in many rooms within minutes), waves (many authors write the same text within minutes or hours, some in a room), greetings that
everyone writes every day, texts with several links, and shouted texts. The shares were adjusted until neither fresh nor old features decided
everything.

Moderators remove most of the abuse, and by mistake a few other texts, within minutes to hours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from examples.simulation import DAY_MS, END_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Ints, rfc3339

ROOMS, WORDS, GREETINGS = 60, 3_000, 12
#: The shares of habitual abusers among the authors, of abuse among their texts; and of texts with a link, shouted texts, greetings and link spam.
ABUSERS, ABUSE, LINKED, SHOUTED, GREETED, SPAM = 0.006, 0.33, 0.08, 0.03, 0.05, 0.003
#: The numbers of raids, hijacked accounts, conversations, announcements and harmless waves per 1,000 usual texts.
RAIDS, HIJACKED, TALKS, ANNOUNCEMENTS, WAVES = 0.1, 0.12, 3.0, 0.2, 0.2
#: The share of the abuse that moderators remove, the share of other texts that they remove, and the median time from a text to its removal.
REMOVED, MISTAKEN, REMOVAL_MS = 0.93, 0.001, 40 * MINUTE_MS


@dataclass(frozen=True)
class Report:
    """The files that `generate` wrote.

    Attributes:
        texts: The CSV file of the texts.
        removals: The CSV file of the removals before the end.
        labels: The CSV file with the truth about each text: its scenario, 0 for none, and its label.
        count: The number of texts.
        abuse: Scenario → number of its texts.
    """

    texts: Path
    removals: Path
    labels: Path
    count: int
    abuse: dict[int, int]


def generate(
    folder: Path, authors: int = 4_000, days: int = 60, per_day: int = 4_000, seed: int = 1, end_ms: int = END_MS
) -> Report:
    """Writes the three files to a folder. The same arguments lead to the same bytes.

    Args:
        folder: The folder; it is created if it does not exist.
        authors: The number of authors.
        days: The length of the simulated time.
        per_day: The number of usual texts per day.
        seed: The seed of the random generator.
        end_ms: The end of the simulated time, in ms since 1970. Midnight (UTC) preserves the times of day.
    """
    forum = _Forum(np.random.default_rng(seed), authors, days, per_day)
    rows = forum.rows()
    rng, begin_ms = forum.rng, end_ms - days * DAY_MS
    scenario = np.array([row.scenario for row in rows])
    at_ms = np.array([row.at_ms for row in rows])
    removed = rng.random(len(rows)) < np.where(scenario > 0, REMOVED, MISTAKEN)
    delay_ms = np.clip(REMOVAL_MS * rng.lognormal(0, 1.2, len(rows)), 30 * SECOND_MS, DAY_MS - MINUTE_MS).astype(np.int64)
    times, removal_times = rfc3339(begin_ms + at_ms), rfc3339(begin_ms + at_ms + delay_ms)

    folder.mkdir(parents=True, exist_ok=True)
    texts_path, removals_path, labels_path = (folder / f"{name}.csv" for name in ("texts", "removals", "labels"))
    texts = ["event_id,text_id,author_id,room_id,text_key,text,links,event_timestamp"]
    labels = ["author_id,text_key,time,text,links,scenario,label"]
    for place, (row, when) in enumerate(zip(rows, times, strict=True)):
        texts.append(f"e{place:07d},x{place:07d},{row.author},room{row.room:02d},{row.key},{row.text},{row.links},{when}")
        labels.append(f"{row.author},{row.key},{when},{row.text},{row.links},{row.scenario},{int(row.scenario > 0)}")
    known = np.flatnonzero(removed & (at_ms + delay_ms < days * DAY_MS))
    known = known[np.argsort(at_ms[known] + delay_ms[known], kind="stable")]
    removals = ["event_id,text_id,author_id,event_timestamp"]
    removals += [f"r{place:07d},x{place:07d},{rows[place].author},{removal_times[place]}" for place in known]
    for path, lines in ((texts_path, texts), (removals_path, removals), (labels_path, labels)):
        path.write_text("\n".join([*lines, ""]))
    return Report(texts_path, removals_path, labels_path, len(rows), {kind: int((scenario == kind).sum()) for kind in range(1, 5)})


@dataclass(frozen=True, slots=True)
class _Row:
    at_ms: int
    author: int
    room: int
    text: str
    links: int
    scenario: int

    @property
    def key(self) -> str:
        return hashlib.blake2b(self.text.lower().encode(), digest_size=6).hexdigest()


@dataclass
class _Forum:
    """Authors, rooms and words, and the texts of the authors. Times are milliseconds since the beginning of the simulated time."""

    rng: np.random.Generator
    authors: int
    days: int
    per_day: int
    _rows: list[_Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        syllables = ["ba", "do", "ke", "li", "mo", "nu", "ra", "si", "ta", "vo", "we", "zu"]
        self._words = np.array(["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(WORDS)])
        activity = rng.pareto(1.2, self.authors) + 0.05
        self._chances = activity / activity.sum()
        self._home = rng.integers(ROOMS, size=(self.authors, 3))
        chances = np.sqrt(self._chances)
        abusers = rng.choice(self.authors, max(1, round(ABUSERS * self.authors)), replace=False, p=chances / chances.sum())
        self._abusive = np.isin(np.arange(self.authors), abusers)
        self._greetings = [self._text(2) for _ in range(GREETINGS)]

    def rows(self) -> list[_Row]:
        """Returns all texts, ordered by time."""
        self._usual()
        for rate, episode in (
            (TALKS, self._talk),
            (ANNOUNCEMENTS, self._announcement),
            (WAVES, self._wave),
            (RAIDS, self._raid),
            (HIJACKED, self._hijacked),
        ):
            for _ in range(max(1, round(rate * self.days * self.per_day / 1_000))):
                episode(int(self._time_ms(1)[0]))
        return sorted((row for row in self._rows if row.at_ms < self.days * DAY_MS), key=lambda row: (row.at_ms, row.author))

    def _time_ms(self, n: int) -> Ints:
        time_of_day_ms = (self.rng.normal(18 * HOUR_MS, 5 * HOUR_MS, n) % DAY_MS).astype(np.int64)
        return np.asarray(self.rng.integers(self.days, size=n) * DAY_MS + time_of_day_ms, dtype=np.int64)

    def _text(self, words: int | None = None) -> str:
        text = " ".join(self.rng.choice(self._words, words or 2 + self.rng.geometric(0.12)))
        return text.upper() if self.rng.random() < SHOUTED else text

    def _author(self) -> int:
        return int(self.rng.choice(self.authors, p=self._chances))

    def _usual(self) -> None:
        rng, n = self.rng, self.per_day * self.days
        authors, times_ms = rng.choice(self.authors, n, p=self._chances), self._time_ms(n)
        rooms = self._home[authors, rng.integers(3, size=n)]
        kinds, abuse, links = (
            rng.random(n),
            rng.random(n),
            np.where(rng.random(n) < LINKED, np.minimum(rng.geometric(0.6, n), 5), 0),
        )
        for author, at_ms, room, kind, chance, link in zip(authors, times_ms, rooms, kinds, abuse, links, strict=True):
            if kind < SPAM:
                text = self._text()
                self._add(at_ms, author, room, text.upper() if rng.random() < 0.5 else text, int(rng.integers(2, 6)), 2)
                continue
            text = self._greetings[rng.integers(GREETINGS)] if kind > 1 - GREETED else self._text()
            self._add(at_ms, author, room, text, int(link), int(self._abusive[author] and chance < ABUSE))

    def _add(self, at_ms: int, author: int, room: int | np.int64, text: str, links: int = 0, scenario: int = 0) -> None:
        self._rows.append(_Row(int(at_ms), int(author), int(room), text, links, scenario))

    def _talk(self, begin_ms: int) -> None:
        """Adds a conversation: an author writes 5 to 20 texts within 5 to 30 minutes in a room."""
        author, n = self._author(), self.rng.integers(5, 21)
        room, length_ms = self._home[author, 0], self.rng.integers(5, 31) * MINUTE_MS
        for offset_ms in self.rng.integers(length_ms, size=n):
            self._add(begin_ms + offset_ms, author, room, self._text(), int(self.rng.random() < LINKED))

    def _announcement(self, begin_ms: int) -> None:
        """Adds announcements: an author writes 5 to 20 different texts within 5 to 40 minutes, each in any room."""
        author, length_ms = self._author(), self.rng.integers(5, 41) * MINUTE_MS
        for offset_ms in self.rng.integers(length_ms, size=self.rng.integers(5, 21)):
            self._add(begin_ms + offset_ms, author, self.rng.integers(ROOMS), self._text(), int(self.rng.random() < 0.15))

    def _wave(self, begin_ms: int) -> None:
        """Adds a harmless wave: the same text 15 to 60 times within 10 minutes to 8 hours, in a room or in the authors' own rooms."""
        text, room = self._text(), self.rng.integers(ROOMS) if self.rng.random() < 0.5 else None
        length_ms = int(10 * MINUTE_MS * 48 ** self.rng.random())
        for offset_ms in self.rng.integers(length_ms, size=self.rng.integers(15, 61)):
            author = self._author()
            self._add(begin_ms + offset_ms, author, self._home[author, 0] if room is None else room, text)

    def _raid(self, begin_ms: int) -> None:
        text, room, n = self._text(), self.rng.integers(ROOMS), self.rng.integers(15, 61)
        length_ms = self.rng.integers(10, 61) * MINUTE_MS
        for author, offset_ms in zip(
            self.rng.choice(self.authors, n, replace=False), self.rng.integers(length_ms, size=n), strict=True
        ):
            self._add(begin_ms + offset_ms, author, room, text, 0, 3)

    def _hijacked(self, begin_ms: int) -> None:
        author, n = int(self.rng.integers(self.authors)), self.rng.integers(10, 41)
        length_ms = self.rng.integers(5, 41) * MINUTE_MS
        for offset_ms in self.rng.integers(length_ms, size=n):
            self._add(begin_ms + offset_ms, author, self.rng.integers(ROOMS), self._text(), int(self.rng.random() < 0.15), 4)
