"""The code that both clients share: encodes a call as an HTTP request, decodes its response to an answer or an error, and decides on repetitions.

ServingError            (a BraidError)
├── RefusedError        the service refuses the request
└── UnreachableError    the service has not answered before the deadline
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from tenacity import RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

from braid.client.answers import FeatureRows, Prediction, Scores
from features.errors import BraidError

if TYPE_CHECKING:
    import pyarrow as pa

#: The statuses after which a request is repeated.
_BUSY = (429, 503)
_pause = wait_random_exponential(multiplier=0.05, max=1)
_rows = msgspec.json.Decoder(FeatureRows).decode
_prediction = msgspec.json.Decoder(Prediction).decode
_scores = msgspec.json.Decoder(Scores).decode
Answer = TypeVar("Answer")
#: The id of an entity: a value; or column → value, for an entity of several columns.
Id = int | str | Mapping[str, int | str]
#: A time with its offset, or milliseconds since 1970.
Instant = datetime | int


class ServingError(BraidError):
    """Serving gives no answer."""


class RefusedError(ServingError):
    """The service refuses the request.

    Attributes:
        status: The HTTP status of the response; docs/reference/errors.md lists all statuses.
        retry_after_seconds: The pause that the service asks for (`Retry-After`); None if the response names no pause.
        request_id: The id of the request in the log of serving; empty if the response has no id.
    """

    def __init__(self, status: int, cause: str, cure: str, retry_after_seconds: float | None = None, request_id: str = "") -> None:
        super().__init__(cause, cure)
        self.status, self.retry_after_seconds, self.request_id = status, retry_after_seconds, request_id


class UnreachableError(ServingError):
    """The service has not answered before the deadline."""


class Call(NamedTuple, Generic[Answer]):
    """A request.

    Attributes:
        path: The path of the URL.
        body: The body, in JSON.
        decode: The function that decodes the body of the response.
        accept: The media type of the response.
    """

    path: str
    body: bytes
    decode: Callable[[bytes], Answer]
    accept: str = "application/json"


def features_call(group: str, ids: Sequence[Id], at: Instant | None, use_case: str | None) -> Call[FeatureRows]:
    """Makes the call of `Client.features`."""
    return Call("/features", _body({"group": group, "ids": list(ids)}, at, use_case), _rows)


def arrow_call(group: str, ids: Sequence[Id], at: Instant | None, use_case: str | None) -> Call[pa.RecordBatch]:
    """Makes the call of `Client.features_arrow`."""
    return Call("/features", features_call(group, ids, at, use_case).body, _record_batch, "application/vnd.apache.arrow.stream")


def predict_call(
    keys: Mapping[str, Id], context: Mapping[str, Any] | None, model: str | None, at: Instant | None, use_case: str | None
) -> Call[Prediction]:
    """Makes the call of `Client.predict`."""
    path = "/predict" if model is None else f"/models/{quote(model, safe='')}/predict"
    return Call(path, _body({**keys, **_context(context)}, at, use_case), _prediction)


def score_call(
    model: str,
    candidates: Sequence[Mapping[str, Any]],
    keys: Mapping[str, Id] | None,
    context: Mapping[str, Any] | None,
    at: Instant | None,
    use_case: str | None,
) -> Call[Scores]:
    """Makes the call of `Client.score`."""
    body = {**(keys or {}), "candidates": list(candidates), **_context(context)}
    return Call(f"/models/{quote(model, safe='')}/score", _body(body, at, use_case), _scores)


def _record_batch(data: bytes) -> pa.RecordBatch:
    import pyarrow as pa

    with pa.ipc.open_stream(data) as stream:
        return stream.read_next_batch()


def _context(context: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if context is None else {"context": context}


def _body(fields: dict[str, Any], at: Instant | None, use_case: str | None) -> bytes:
    named = {"at": at, "use_case": use_case}
    return _encode(fields | {name: value for name, value in named.items() if value is not None})


def _plain(value: Any) -> Any:
    """A scalar of numpy, and a time of pandas, as JSON has it: ids and columns often come from their frames."""
    if isinstance(value, datetime):
        return value.isoformat()
    if callable(item := getattr(value, "item", None)):
        return item()
    raise TypeError(f"A request cannot have a value of the type {type(value).__name__}.")


#: A decimal is the number that it is: as a text no column would take it.
_encode = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number").encode


def headers_of(api_key: str | None) -> dict[str, str]:
    """Returns the headers of every request."""
    return {"content-type": "application/json"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})


def answer_of(call: Call[Answer], response: httpx.Response) -> Answer:
    """Decodes the response to a call.

    Raises:
        RefusedError: The response has an error status, or its body cannot be decoded.
    """
    if not response.is_success:
        raise _refusal(response)
    try:
        return call.decode(response.content)
    except (ValueError, StopIteration) as error:  # StopIteration: an Arrow stream without a batch
        raise RefusedError(
            response.status_code, f"The response is no answer of serving: {error}.", "Check the address and the version of serving."
        ) from None


def _refusal(response: httpx.Response) -> RefusedError:
    try:
        body = response.json()
        cause, cure = str(body["error"]), str(body.get("cure", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        cause, cure = f"The service answers with the status {response.status_code}.", ""
    headers = response.headers
    pause_seconds = _retry_after_seconds(headers.get("retry-after"))
    return RefusedError(response.status_code, cause, cure, pause_seconds, headers.get("x-request-id", ""))


def _retry_after_seconds(value: str | None) -> float | None:
    """Returns the seconds of a `Retry-After` header, which is a number or an HTTP date; None if it is missing or invalid."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def unreachable(deadline_seconds: float, error: Exception) -> UnreachableError:
    """Makes the error for an attempt without a response."""
    return UnreachableError(
        f"Serving has not answered within {deadline_seconds:g} s ({str(error) or type(error).__name__}).",
        "Check the address, and that `braid status` shows serving as healthy.",
    )


def repetition(deadline_seconds: float) -> dict[str, Any]:
    """Returns the arguments of tenacity that repeat a request. An error is raised at once if the pause after it would end after the deadline."""
    return {"retry": retry_if_exception(_is_passing), "wait": _wait, "stop": stop_before_delay(deadline_seconds), "reraise": True}


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, UnreachableError) or (isinstance(error, RefusedError) and error.status in _BUSY)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RefusedError) and error.retry_after_seconds is not None:
        # The random pause is added, so that callers that were refused at the same time do not repeat their requests at the same time.
        return error.retry_after_seconds + _pause(state)
    return _pause(state)
