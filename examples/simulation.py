"""Shared by the simulations of the examples: units of time, the default end, episodes, and instants as text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
#: The end of the simulated time by default: 2025-06-01T00:00:00Z.
END_MS = 1_748_736_000_000

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def shares(rng: np.random.Generator, n: int) -> Floats:
    """Returns random shares of n members, which add up to 1."""
    weights = rng.gamma(3.0, 1.0, n)
    return weights / weights.sum()


def in_episodes(
    rng: np.random.Generator, members: Ints, at_ms: Ints, population: int, rate: float, days: int, hours: tuple[int, int]
) -> Bools:
    """Returns whether each event lies in an episode of its member. The episodes are drawn at random.

    Args:
        rng: The random generator.
        members: The member of each event, from 0 to `population` - 1.
        at_ms: The time of each event since the beginning, ascending.
        population: The number of members.
        rate: Episodes per member and day.
        days: The length of the simulated time.
        hours: The shortest and the longest length of an episode.
    """
    return episodes(rng, population, rate, days, hours).contain(members, at_ms)


@dataclass(frozen=True)
class Episodes:
    """Spans of time, each of a member.

    Attributes:
        member: The member of each span.
        begin_ms: The begin of each span, in ms since the beginning of the simulated time.
        end_ms: The end of each span, likewise.
    """

    member: Ints
    begin_ms: Ints
    end_ms: Ints

    def contain(self, members: Ints, at_ms: Ints) -> Bools:
        """Returns whether each event lies in an episode of its member. The times must be ascending."""
        inside = np.zeros(len(at_ms), dtype=bool)
        for member, begin, end in zip(self.member, self.begin_ms, self.end_ms, strict=True):
            first, last = np.searchsorted(at_ms, [begin, end])
            inside[first:last] |= members[first:last] == member
        return inside

    def members_at(self, rng: np.random.Generator, at_ms: Ints) -> Ints:
        """Returns for each instant a random member that is in an episode then; -1 if no member is."""
        active = (self.begin_ms <= at_ms[:, None]) & (at_ms[:, None] < self.end_ms)
        place = (rng.random(active.shape, dtype=np.float32) * active).argmax(axis=1)
        return np.where(active.any(axis=1), self.member[place], -1)


def episodes(rng: np.random.Generator, population: int, rate: float, days: int, hours: tuple[int, int]) -> Episodes:
    """Returns random episodes. The arguments are those of `in_episodes`."""
    spans = np.array(
        [
            (rng.integers(population), rng.integers(days * DAY_MS), rng.integers(hours[0] * HOUR_MS, hours[1] * HOUR_MS))
            for _ in range(max(1, round(rate * population * days)))
        ],
        dtype=np.int64,
    )
    return Episodes(spans[:, 0], spans[:, 1], spans[:, 1] + spans[:, 2])


def rfc3339(instants_ms: Ints) -> npt.NDArray[np.str_]:
    """Returns instants as RFC 3339, in UTC with milliseconds."""
    return np.char.add(np.datetime_as_string(instants_ms.astype("datetime64[ms]")), "Z")
