"""The data of the card issuer: simulated purchases by card, some of them fraud, and the chargebacks by which fraud becomes known.

The simulator follows the description in "Reproducible Machine Learning for Credit Card Fraud Detection – Practical Handbook" (Le Borgne,
Siblini, Lebichot, Bontempi; chapter 3): cards with a place, a mean amount and a frequency; terminals with a place; a card pays at the
terminals near it; frauds by scenario. This simulator adds the scenarios 4 and 5, which last minutes or hours, and harmless behaviour that looks
like fraud: small and large purchases, shopping sprees, several payments within minutes, and crowds at a terminal.

    1  large amount           every purchase above `THRESHOLD`
    2  compromised terminal   for one to two weeks most purchases at the terminal, of the usual amounts by its usual cards
    3  stolen card            for some days purchases of larger amounts, at terminals anywhere
    4  card testing           within minutes many small purchases at terminals anywhere, then a few large ones
    5  attacked terminal      within hours purchases by many cards from anywhere

Writes three CSV files. `transactions` and `chargebacks` have the columns of the sources in `examples.fraud.definitions`. `labels` has the truth
about each purchase, also before its chargeback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from examples.simulation import DAY_MS, END_MS, HOUR_MS, MINUTE_MS, Floats, Ints, rfc3339

#: The side of the square on which cards and terminals lie, and the distance up to which a card pays at a terminal.
SIDE, RADIUS = 100.0, 10.0
#: The amount above which every purchase is fraud of scenario 1.
THRESHOLD = 450.0
#: A chargeback follows its purchase after at least the first and less than the second number of days.
DELAY_DAYS = (1, 7)
#: Harmless behaviour: the shares of purchases with small and with large amounts, the numbers of sprees and of payments within minutes per card and
#: day, and the number of crowds per terminal and day.
SMALL_SHARE, LARGE_SHARE, SPREE_RATE, MINUTES_RATE, CROWD_RATE = 0.06, 0.005, 0.008, 0.004, 0.0012
#: The numbers of episodes of the scenarios 2 and 5 per terminal and day, and of the scenarios 3 and 4 per card and day.
COMPROMISED_RATE, STOLEN_RATE, TESTING_RATE, ATTACKED_RATE = 0.0003, 0.00025, 0.00015, 0.0003
#: The share of the purchases at a compromised terminal that are fraud.
COMPROMISED_SHARE = 0.8


@dataclass(frozen=True)
class Report:
    """The files that `generate` wrote, and the numbers of their rows.

    Attributes:
        transactions: The CSV file of the purchases.
        chargebacks: The CSV file of the chargebacks before `end_ms`.
        labels: The CSV file with the truth about each purchase: its scenario, 0 for none, and its label.
        purchases: The number of purchases.
        frauds: Scenario → number of its purchases.
        known_frauds: The number of chargebacks.
        begin_ms: The beginning of the simulated time, in ms since 1970.
        end_ms: The end of the simulated time, in ms since 1970.
    """

    transactions: Path
    chargebacks: Path
    labels: Path
    purchases: int
    frauds: dict[int, int]
    known_frauds: int
    begin_ms: int
    end_ms: int

    @property
    def fraud_share(self) -> float:
        """The share of the purchases that are fraud."""
        return sum(self.frauds.values()) / self.purchases


def generate(
    folder: Path, cards: int = 4_000, terminals: int = 1_000, days: int = 90, seed: int = 1, end_ms: int = END_MS
) -> Report:
    """Writes the three files to a folder. The same arguments lead to the same bytes.

    Args:
        folder: The folder; it is created if it does not exist.
        cards: The number of cards; each pays about once a day.
        terminals: The number of terminals.
        days: The length of the simulated time.
        seed: The seed of the random generator.
        end_ms: The end of the simulated time, in ms since 1970. Midnight (UTC) preserves the times of day.
    """
    simulation = _Simulation(np.random.default_rng(seed), cards, terminals, days)
    card, terminal, at_ms, amount, scenario = simulation.purchases()
    delay_ms = simulation.rng.integers(DELAY_DAYS[0] * DAY_MS, DELAY_DAYS[1] * DAY_MS, len(card))
    begin_ms = end_ms - days * DAY_MS
    at_ms = at_ms + begin_ms
    known_ms = at_ms + delay_ms
    times, amounts = rfc3339(at_ms), np.char.mod("%.2f", amount)
    ids, terminal_ids = np.char.mod("t%07d", np.arange(len(card))), np.char.mod("m%05d", terminal)

    folder.mkdir(parents=True, exist_ok=True)
    transactions, chargebacks, labels = (folder / f"{name}.csv" for name in ("transactions", "chargebacks", "labels"))
    _write(
        transactions, "event_id,event_type,transaction_id,card_id,terminal_id,amount,event_timestamp",
        (f"p{i[1:]},PURCHASE,{i},{c},{t},{a},{when}" for i, c, t, a, when in zip(ids, card, terminal_ids, amounts, times, strict=True)),
    )  # fmt: skip
    known = np.flatnonzero((scenario > 0) & (known_ms < end_ms))
    known = known[np.argsort(known_ms[known], kind="stable")]
    columns = (ids[known], card[known], terminal_ids[known], amounts[known], rfc3339(known_ms[known]))
    _write(
        chargebacks, "event_id,event_type,transaction_id,card_id,terminal_id,amount,event_timestamp",
        (f"c{i[1:]},CHARGEBACK,{i},{c},{t},{a},{when}" for i, c, t, a, when in zip(*columns, strict=True)),
    )  # fmt: skip
    rows = zip(card, terminal_ids, times, amounts, ids, scenario, strict=True)
    _write(
        labels, "card_id,terminal_id,time,amount,transaction_id,scenario,label",
        (f"{c},{t},{when},{a},{i},{kind},{int(kind > 0)}" for c, t, when, a, i, kind in rows),
    )  # fmt: skip
    frauds = {kind: int((scenario == kind).sum()) for kind in range(1, 6)}
    return Report(transactions, chargebacks, labels, len(card), frauds, len(known), begin_ms, end_ms)


@dataclass
class _Simulation:
    """Cards and terminals, and the purchases between them. Times are milliseconds since the beginning of the simulated time."""

    rng: np.random.Generator
    cards: int
    terminals: int
    days: int
    mean_amount: Floats = field(init=False)
    _chunks: list[tuple[Any, ...]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        card_places, terminal_places = rng.uniform(0, SIDE, (self.cards, 2)), rng.uniform(0, SIDE, (self.terminals, 2))
        self.mean_amount = rng.uniform(5, 100, self.cards)
        self._per_day = rng.uniform(0, 2, self.cards)
        popularity = rng.lognormal(0, 0.8, self.terminals)
        self._shares = popularity / popularity.sum()
        #: For each card the terminals near it, or the nearest terminal if none is near, and their cumulative chances.
        self._near: list[tuple[Ints, Floats]] = []
        for place in card_places:
            distances = np.hypot(*(terminal_places - place).T)
            near = np.flatnonzero(distances <= RADIUS)
            near = near if len(near) else np.array([distances.argmin()])
            self._near.append((near, np.cumsum(popularity[near]) / popularity[near].sum()))
        self._customers: dict[int, list[int]] = {}
        for card, (near, _) in enumerate(self._near):
            for terminal in near:
                self._customers.setdefault(int(terminal), []).append(card)

    def purchases(self) -> tuple[Ints, Ints, Ints, Floats, Ints]:
        """Returns the card, terminal, time, amount and scenario of all purchases, ordered by time."""
        self._usual()
        self._sprees()
        self._within_minutes()
        self._crowds()
        self._stolen()
        self._tested()
        self._attacked()
        card, terminal, at_ms, amount, scenario = (np.concatenate(parts) for parts in zip(*self._chunks, strict=True))
        inside = np.flatnonzero((at_ms >= 0) & (at_ms < self.days * DAY_MS))
        order = inside[np.argsort(at_ms[inside], kind="stable")]
        card, terminal, at_ms, amount, scenario = (column[order] for column in (card, terminal, at_ms, amount, scenario))
        amount = np.maximum(np.round(amount, 2), 0.01)
        self._compromise(terminal, at_ms, scenario)
        scenario[(scenario == 0) & (amount > THRESHOLD)] = 1
        return card, terminal, at_ms, amount, scenario

    def _add(self, cards: Any, terminals: Any, times_ms: Any, amounts: Any, scenario: int = 0) -> None:
        cards, terminals, times_ms, amounts = np.broadcast_arrays(cards, terminals, times_ms, amounts)
        self._chunks.append((cards.astype(np.int64), terminals.astype(np.int64), times_ms.astype(np.int64), amounts.astype(np.float64),
                             np.full(cards.shape, scenario, dtype=np.int64)))  # fmt: skip

    def _days_ms(self, rate: float, population: int) -> Ints:
        """Returns the days on which episodes begin, evenly over the simulated time; `rate` is the number of episodes per member and day."""
        n = max(1, round(rate * population * self.days))
        return ((np.arange(n) + self.rng.random(n)) * self.days / n).astype(np.int64) * DAY_MS

    def _time_of_day_ms(self, n: int) -> Ints:
        """Returns times of day around 14:00, as those of usual purchases."""
        return (self.rng.normal(14 * HOUR_MS, 4.5 * HOUR_MS, n) % DAY_MS).astype(np.int64)

    def _near_terminals(self, card: int | np.int64, n: int | np.int64) -> Ints:
        near, chances = self._near[card]
        return near[np.minimum(np.searchsorted(chances, self.rng.random(n)), len(near) - 1)]

    def _anywhere(self, n: int | np.int64) -> Ints:
        return self.rng.choice(self.terminals, n, p=self._shares)

    def _amounts(self, cards: Any) -> Floats:
        """Returns usual amounts. Their standard deviation is half of the card's mean; a few are small, and a few are large."""
        rng, mean = self.rng, self.mean_amount[cards]
        amounts = rng.gamma(4.0, mean / 4.0)
        kind = rng.random(len(amounts))
        amounts = np.where(kind < SMALL_SHARE, rng.uniform(0.5, 6, len(amounts)), amounts)
        return np.where(kind > 1 - LARGE_SHARE, mean * rng.uniform(2.5, 6, len(amounts)), amounts)

    def _usual(self) -> None:
        week = np.tile([1.0, 0.95, 0.95, 1.0, 1.15, 1.2, 0.75], self.days // 7 + 1)[: self.days]
        per_card = self.rng.poisson(self._per_day[:, None] * week)
        cards, days = np.nonzero(per_card)
        repeats = per_card[cards, days]
        cards, days = np.repeat(cards, repeats), np.repeat(days, repeats)
        # np.nonzero orders by card, so the purchases of a card are adjacent.
        counts = np.bincount(cards, minlength=self.cards)
        places = np.concatenate([self._near_terminals(card, n) for card, n in enumerate(counts)])
        self._add(cards, places, days * DAY_MS + self._time_of_day_ms(len(cards)), self._amounts(cards))

    def _sprees(self) -> None:
        """Adds shopping sprees: three to eight purchases at terminals near the card within one to two hours."""
        rng = self.rng
        for day_ms in self._days_ms(SPREE_RATE, self.cards):
            card, n = rng.integers(self.cards), rng.integers(3, 9)
            begin_ms = day_ms + self._time_of_day_ms(1)
            times_ms = begin_ms + rng.uniform(0, rng.uniform(1, 2) * HOUR_MS, n)
            self._add(card, self._near_terminals(card, n), times_ms, self._amounts(np.full(n, card)))

    def _within_minutes(self) -> None:
        """Adds small payments within 15 minutes at one to three terminals: machines, buses, a food court."""
        rng = self.rng
        for day_ms in self._days_ms(MINUTES_RATE, self.cards):
            card, n = rng.integers(self.cards), rng.integers(3, 8)
            places = rng.choice(self._near_terminals(card, rng.integers(1, 4)), n)
            begin_ms = day_ms + self._time_of_day_ms(1)
            self._add(card, places, begin_ms + rng.uniform(0, 15 * MINUTE_MS, n), rng.uniform(0.5, 12, n))

    def _crowds(self) -> None:
        """Adds crowds, as at an event near a terminal: for some hours many of its usual cards pay there."""
        rng = self.rng
        for day_ms in self._days_ms(CROWD_RATE, self.terminals):
            terminal = rng.integers(self.terminals)
            usual = self._customers.get(int(terminal), [])
            n = min(int(rng.integers(8, 30)), len(usual))
            cards = rng.choice(usual, n, replace=False) if n else np.empty(0, dtype=np.int64)
            begin_ms = day_ms + self._time_of_day_ms(1)
            self._add(cards, terminal, begin_ms + rng.uniform(0, rng.uniform(1, 4) * HOUR_MS, n), self._amounts(cards))

    def _compromise(self, terminals: Ints, times_ms: Ints, scenario: Ints) -> None:
        """Scenario 2: marks most purchases of a terminal within one to two weeks as fraud."""
        rng = self.rng
        for day_ms in self._days_ms(COMPROMISED_RATE, self.terminals):
            begin_ms, length_ms = day_ms + rng.integers(DAY_MS), rng.integers(7 * DAY_MS, 15 * DAY_MS)
            hit = (terminals == rng.integers(self.terminals)) & (times_ms >= begin_ms) & (times_ms < begin_ms + length_ms)
            scenario[hit & (scenario == 0) & (rng.random(len(scenario)) < COMPROMISED_SHARE)] = 2

    def _stolen(self) -> None:
        """Scenario 3: adds a thief's purchases of three to seven days, one to four per day, of three to six times the card's mean."""
        rng = self.rng
        for day_ms in self._days_ms(STOLEN_RATE, self.cards):
            card, length_days = rng.integers(self.cards), rng.integers(3, 8)
            n = rng.integers(1, 5, length_days).sum()
            times_ms = day_ms + rng.integers(0, length_days, n) * DAY_MS + self._time_of_day_ms(n)
            self._add(card, self._anywhere(n), times_ms, self.mean_amount[card] * rng.uniform(3, 6, n), 3)

    def _tested(self) -> None:
        """Scenario 4: adds six to fifteen small purchases within 3 to 20 minutes, then one to three large purchases within the next hour."""
        rng = self.rng
        for day_ms in self._days_ms(TESTING_RATE, self.cards):
            card, small, large = rng.integers(self.cards), rng.integers(6, 16), rng.integers(1, 4)
            begin_ms, length_ms = day_ms + self._time_of_day_ms(1), rng.uniform(3, 20) * MINUTE_MS
            self._add(card, self._anywhere(small), begin_ms + rng.uniform(0, length_ms, small), rng.uniform(0.5, 6, small), 4)
            self._add(
                card, self._anywhere(large), begin_ms + length_ms + rng.uniform(MINUTE_MS, HOUR_MS, large),
                self.mean_amount[card] * rng.uniform(2, 6, large), 4,
            )  # fmt: skip

    def _attacked(self) -> None:
        """Scenario 5: adds purchases of ten to thirty stolen cards at a terminal within one to four hours, of up to three times their mean."""
        rng = self.rng
        for day_ms in self._days_ms(ATTACKED_RATE, self.terminals):
            terminal, n = rng.integers(self.terminals), min(int(rng.integers(10, 31)), self.cards)
            cards = rng.choice(self.cards, n, replace=False)
            begin_ms, length_ms = day_ms + self._time_of_day_ms(1), rng.uniform(1, 4) * HOUR_MS
            self._add(cards, terminal, begin_ms + rng.uniform(0, length_ms, n), self.mean_amount[cards] * rng.uniform(0.7, 3, n), 5)


def _write(path: Path, header: str, lines: Iterable[str]) -> None:
    path.write_text("\n".join([header, *lines, ""]))
