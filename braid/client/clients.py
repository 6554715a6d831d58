"""The two clients, for threads and for asyncio, which have the same methods."""

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
    """A client that waits for each answer. Several threads may use one client.

    Args:
        url: The address of serving, such as "http://127.0.0.1:3001".
        api_key: The API key, if the deployment has one (`BRAID_API_KEY`).
        deadline_seconds: The time that a call may take with all repetitions, in seconds. Within one attempt the remaining time bounds connecting,
            sending and receiving separately, so a call to a service that stalls in each of them takes longer. `AsyncClient` keeps the deadline
            exactly.
        transport: A transport of httpx in place of the default, such as for tests.
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
        """Requests the features of entities at one time.

        Args:
            group: The name of the group.
            ids: The ids of at most 1,000 entities.
            at: The time, as a datetime with an offset or as milliseconds since 1970; at or after batch_end. Now by default.
            use_case: The name of a use case in the deployment's settings.

        Returns:
            A row for each id, in the order of the ids.

        Raises:
            RefusedError: The service refuses the request.
            UnreachableError: The service has not answered before the deadline.
        """
        return self._ask(features_call(group, ids, at, use_case)).rows

    def features_arrow(
        self, group: str, ids: Sequence[Id], at: Instant | None = None, use_case: str | None = None
    ) -> pa.RecordBatch:
        """Requests the same as `features`, as an Arrow record batch, which is smaller and faster for many entities.

        Its columns are `id`, a column for each feature with the name of the feature, and a column for each field of `Provenance`, such as
        `provenance.degraded`.
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
        """Requests a prediction.

        Args:
            keys: Key of an input of the model → id, such as {"user_id": 17850}. If the model's outcome is joined by a field of its own, such as
                "transaction_id", also this field → its value.
            context: Request column of the model → value.
            model: The name of the model; by default the first model of the project.
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
        """Requests the predictions for many candidates, with the features of one time.

        Args:
            model: The name of the model.
            candidates: At most 1,000 candidates, each with the keys and the request columns in which it differs from the others.
            keys: The keys that all candidates share, with their ids.
            context: The request columns that all candidates share, with their values.
            at: As in `features`.
            use_case: As in `features`.

        Raises:
            ServingError: As in `features`.
        """
        return self._ask(score_call(model, candidates, keys, context, at, use_case))

    def close(self) -> None:
        """Closes the connections."""
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
        """Does the same as `Client.features`."""
        return (await self._ask(features_call(group, ids, at, use_case))).rows

    async def features_arrow(
        self, group: str, ids: Sequence[Id], at: Instant | None = None, use_case: str | None = None
    ) -> pa.RecordBatch:
        """Does the same as `Client.features_arrow`."""
        return await self._ask(arrow_call(group, ids, at, use_case))

    async def predict(
        self,
        keys: Mapping[str, Id],
        context: Mapping[str, Any] | None = None,
        model: str | None = None,
        at: Instant | None = None,
        use_case: str | None = None,
    ) -> Prediction:
        """Does the same as `Client.predict`."""
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
        """Does the same as `Client.score`."""
        return await self._ask(score_call(model, candidates, keys, context, at, use_case))

    async def close(self) -> None:
        """Closes the connections."""
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
