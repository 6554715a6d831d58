"""What the simulations of the examples share: units of time, the default end, episodes, and instants as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
#: The end of the simulated time by default: 2025-06-01T00:00:00Z.
END_MS = 1_748_736_000_000

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def shares(rng: np.random.Generator, n: int) -> Floats:
    """Shares of n members, some larger than others; they add up to 1."""
    weights = rng.gamma(3.0, 1.0, n)
    return weights / weights.sum()


def in_episodes(
    rng: np.random.Generator, members: Ints, at_ms: Ints, population: int, rate: float, days: int, hours: tuple[int, int]
) -> Bools:
    """Whether each event lies in an episode of its member.

    Args:
        rng: The source of chance.
        members: The member of each event, from 0 to `population` - 1.
        at_ms: The time of each event since the beginning, ascending.
        population: The number of members.
        rate: Episodes per member and day.
        days: The length of the simulated time.
        hours: The shortest and the longest episode.
    """
    inside = np.zeros(len(at_ms), dtype=bool)
    for _ in range(max(1, round(rate * population * days))):
        member, begin_ms = rng.integers(population), rng.integers(days * DAY_MS)
        length_ms = rng.integers(hours[0] * HOUR_MS, hours[1] * HOUR_MS)
        first, last = np.searchsorted(at_ms, [begin_ms, begin_ms + length_ms])
        inside[first:last] |= members[first:last] == member
    return inside


def rfc3339(instants_ms: Ints) -> npt.NDArray[np.str_]:
    """Instants in UTC with milliseconds."""
    return np.char.add(np.datetime_as_string(instants_ms.astype("datetime64[ms]")), "Z")
