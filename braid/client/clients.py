"""The two clients: the same calls, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx
from tenacity import AsyncRetrying, Retrying

from braid.client.answers import FeatureRow, Prediction, Scores
from braid.client.calls import (
    Answer,
    Call,
    Id,
    Instant,
    answer_of,
    arrow_call,
    features_call,
    headers_of,
    predict_call,
    repetition,
    score_call,
    unreachable,
)

if TYPE_CHECKING:
    import pyarrow as pa


class Client:
    """Asks serving, and waits for each answer. One client may be used by several threads.

    Args:
        url: The address of serving, such as "http://127.0.0.1:3001".
        api_key: The key, where the deployment has one (`BRAID_API_KEY`).
        deadline_seconds: How long a call may take with all repetitions. The time of one attempt is bounded for connecting, for sending and
            for receiving each, so a call to a service that stalls in all three takes longer; `AsyncClient` keeps the deadline exactly.
        transport: Another transport of httpx, such as for tests.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        deadline_seconds: float = 2.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._http = httpx.Client(base_url=url, headers=headers_of(api_key), transport=transport)

    def features(self, group: str, ids: Sequence[Id], at: Instant | None = None, use_case: str | None = None) -> list[FeatureRow]:
        """The features of entities at one time, in the order of the ids.

        Args:
            group: The group.
            ids: At most 1,000 entities.
            at: The time with its offset, or milliseconds since 1970; now by default. Not before batch_end.
            use_case: A use case of the deployment's settings.

        Raises:
            RefusedError: The service refuses the request.
            UnreachableError: The service has not answered before the deadline.
        """
        return self._ask(features_call(group, ids, at, use_case)).rows

    def features_arrow(
        self, group: str, ids: Sequence[Id], at: Instant | None = None, use_case: str | None = None
    ) -> pa.RecordBatch:
        """The same as a record batch of Arrow, which is smaller and faster for many entities.

        Its columns are `id`, one of each feature by its name, and one of each field of `Provenance`, such as `provenance.degraded`.
        """
        return self._ask(arrow_call(group, ids, at, use_case))

    def predict(
        self,
        keys: Mapping[str, Id],
        context: Mapping[str, Any] | None = None,
        model: str | None = None,
        at: Instant | None = None,
        use_case: str | None = None,
    ) -> Prediction:
        """A prediction.

        Args:
            keys: The key of each input of the model, such as {"user_id": 17850}; also what the outcome will name, where the model has such a field.
            context: The request columns of the model.
            model: The model; the first of the project by default.
            at: As in `features`.
            use_case: As in `features`.

        Raises:
            ServingError: As in `features`.
        """
        return self._ask(predict_call(keys, context, model, at, use_case))

    def score(
        self,
        model: str,
        candidates: Sequence[Mapping[str, Any]],
        keys: Mapping[str, Id] | None = None,
        context: Mapping[str, Any] | None = None,
        at: Instant | None = None,
        use_case: str | None = None,
    ) -> Scores:
        """The predictions for many candidates, on the features of one time.

        Args:
            model: The model.
            candidates: At most 1,000, each with the keys and the request columns in which it differs.
            keys: The keys that all candidates share.
            context: The request columns that all candidates share.
            at: As in `features`.
            use_case: As in `features`.

        Raises:
            ServingError: As in `features`.
        """
        return self._ask(score_call(model, candidates, keys, context, at, use_case))

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, call: Call[Answer]) -> Answer:
        end = time.monotonic() + self._deadline_seconds
        for attempt in Retrying(**repetition(self._deadline_seconds)):
            with attempt:
                try:
                    response = self._http.post(
                        call.path, content=call.body, headers={"accept": call.accept}, timeout=max(0.001, end - time.monotonic())
                    )
                except httpx.TransportError as error:
                    raise unreachable(self._deadline_seconds, error) from error
                return answer_of(call, response)
        raise AssertionError  # tenacity raises or repeats


class AsyncClient:
    """`Client` for asyncio. Arguments, methods and errors are those of `Client`."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        deadline_seconds: float = 2.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._http = httpx.AsyncClient(base_url=url, headers=headers_of(api_key), transport=transport)

    async def features(
        self, group: str, ids: Sequence[Id], at: Instant | None = None, use_case: str | None = None
    ) -> list[FeatureRow]:
        """`Client.features`."""
        return (await self._ask(features_call(group, ids, at, use_case))).rows

    async def features_arrow(
        self, group: str, ids: Sequence[Id], at: Instant | None = None, use_case: str | None = None
    ) -> pa.RecordBatch:
        """`Client.features_arrow`."""
        return await self._ask(arrow_call(group, ids, at, use_case))

    async def predict(
        self,
        keys: Mapping[str, Id],
        context: Mapping[str, Any] | None = None,
        model: str | None = None,
        at: Instant | None = None,
        use_case: str | None = None,
    ) -> Prediction:
        """`Client.predict`."""
        return await self._ask(predict_call(keys, context, model, at, use_case))

    async def score(
        self,
        model: str,
        candidates: Sequence[Mapping[str, Any]],
        keys: Mapping[str, Id] | None = None,
        context: Mapping[str, Any] | None = None,
        at: Instant | None = None,
        use_case: str | None = None,
    ) -> Scores:
        """`Client.score`."""
        return await self._ask(score_call(model, candidates, keys, context, at, use_case))

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _ask(self, call: Call[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                async for attempt in AsyncRetrying(**repetition(self._deadline_seconds)):
                    with attempt:
                        try:
                            response = await self._http.post(
                                call.path, content=call.body, headers={"accept": call.accept}, timeout=None
                            )
                        except httpx.TransportError as error:
                            raise unreachable(self._deadline_seconds, error) from error
                        return answer_of(call, response)
        except TimeoutError as error:
            raise unreachable(self._deadline_seconds, error) from error
        raise AssertionError  # tenacity raises or repeats
