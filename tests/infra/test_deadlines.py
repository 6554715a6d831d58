"""A deadline ends the block that it is of and nothing else, as `asyncio.timeout` does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from infra.deadlines import Deadline

SHORT, LONG = 0.05, 30.0


async def of_a_library(seconds: float, block: Callable[[], Any]) -> None:
    async with asyncio.timeout(seconds):
        await block()


async def of_ours(seconds: float, block: Callable[[], Any]) -> None:
    context: AbstractContextManager[None] = Deadline(seconds)
    with context:
        await block()


both = pytest.mark.parametrize("within", [of_a_library, of_ours])


@both
def test_a_block_that_waits_for_too_long_times_out_and_its_task_goes_on(within: Callable[..., Any]) -> None:
    async def run() -> int:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await within(SHORT, lambda: asyncio.sleep(LONG))
            await asyncio.sleep(0)
        return task.cancelling()

    assert asyncio.run(run()) == 0


@both
def test_a_block_that_ends_in_time_or_fails_is_left_alone(within: Callable[..., Any]) -> None:
    async def fail() -> None:
        raise KeyError("own")

    async def run() -> None:
        await within(SHORT, lambda: asyncio.sleep(0))
        with pytest.raises(KeyError, match="own"):
            await within(SHORT, fail)
        await asyncio.sleep(2 * SHORT)  # its timer is over

    asyncio.run(run())


@both
def test_a_cancellation_by_another_is_no_timeout(within: Callable[..., Any]) -> None:
    async def run() -> None:
        task = asyncio.create_task(within(LONG, lambda: asyncio.sleep(LONG)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@both
def test_a_cancellation_at_the_moment_of_the_timeout_stays_a_cancellation(within: Callable[..., Any]) -> None:
    async def run() -> None:
        task = asyncio.create_task(within(SHORT, lambda: asyncio.sleep(LONG)))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(SHORT, task.cancel)  # in the same turn of the loop, or right behind
        with pytest.raises((asyncio.CancelledError, TimeoutError)) as outcome:
            await task
        assert task.cancelled() is isinstance(outcome.value, asyncio.CancelledError)

    asyncio.run(run())


@both
def test_the_outer_of_two_ends_both(within: Callable[..., Any]) -> None:
    async def run() -> list[str]:
        seen = []

        async def inner() -> None:
            try:
                await within(LONG, lambda: asyncio.sleep(LONG))
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

        with pytest.raises(TimeoutError):
            await within(SHORT, inner)
        return seen

    assert asyncio.run(run()) == ["CancelledError"]
