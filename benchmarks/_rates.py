"""Loads of a fixed length at a fixed rate (`orchestration.open_loop`), and the search for the highest rate that a server holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestration.open_loop import Generator, Load, run_timed


def offer(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Sends requests to a port at a rate (per second) for some seconds, in turn, over `orchestration.open_loop.CONNECTIONS` connections."""

    async def load() -> Load:
        number = max(1, int(rate * seconds))
        return await Generator(lambda place: requests[place % len(requests)], rate, number).run(port)

    return run_timed(load)


def highest_rate(trial: Callable[[float], Load], limit_ms: float, first: float, trials: int) -> float:
    """Returns the highest rate, to about 5 %, at which all answers are good and within the limit; 0 if there is no such rate.

    A rate fails only if two trials of it fail, because another process of the machine can spoil one trial.

    Args:
        trial: Offers a load at a rate.
        limit_ms: The limit of the 99th percentile, in ms.
        first: The first rate to try, in requests per second.
        trials: The largest number of rates to try.
    """
    held, failed, rate = 0.0, float("inf"), first
    for _ in range(trials):
        if trial(rate).holds(limit_ms) or trial(rate).holds(limit_ms):
            held = rate
        else:
            failed = rate
        if held and failed / held < 1.05:
            break
        rate = held * 1.5 if failed == float("inf") else (held * failed) ** 0.5 if held else failed / 2
    return held
