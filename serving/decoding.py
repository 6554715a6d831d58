"""Decodes the bodies of requests: for each pydantic model of `serving.contract` that a request consists of, a msgspec struct with the same fields.

msgspec decodes the usual requests in a tenth of pydantic's time. If a struct refuses a body, the contract validates the body again. The contract
decides, and its message is the cause in the response. So a struct may refuse what the contract accepts, but never accepts what the contract
refuses. A test checks both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from pydantic import BaseModel, ValidationError

from features.declaration import MAX_ENTITY_LENGTH
from features.model import Model
from features.sources import ColumnType
from serving.contract import (
    LAST_MS,
    MAX_CONTEXT,
    MAX_DECIMAL,
    MAX_IDS,
    MAX_NAME_LENGTH,
    MAX_TEXT_LENGTH,
    MAX_USE_CASE_LENGTH,
    instant_ms,
    six_places,
)  # fmt: skip
from serving.errors import RefusalError

_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_EntityId = _Int64 | Annotated[str, Meta(min_length=1, max_length=MAX_ENTITY_LENGTH)]
#: An instant. The struct converts a text to milliseconds after it is decoded.
_Instant = Annotated[int, Meta(ge=0, le=LAST_MS)] | str
_COLUMN_TYPES: dict[ColumnType, Any] = {
    ColumnType.STRING: Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)],
    ColumnType.INT64: _Int64,
    ColumnType.DECIMAL: Annotated[float, Meta(gt=-MAX_DECIMAL, lt=MAX_DECIMAL)],
    ColumnType.TIMESTAMP: _Instant,
}
_COMMON: list[Any] = [
    ("at", _Instant | None, None),
    ("use_case", Annotated[str, Meta(min_length=1, max_length=MAX_USE_CASE_LENGTH)] | None, None),
]
#: The values of `context` of a model without request columns.
_AnyContext = Annotated[dict[str, str | float | int | bool | None], Meta(max_length=MAX_CONTEXT)]


def decoder(struct: Any | None, contract: type[BaseModel]) -> Callable[[bytes], Any]:
    """Returns a function that decodes a request's body to an object with the fields of the contract.

    The function raises RefusalError for a body outside the contract: with the status 422 for a wrong request column, else with 400.

    Args:
        struct: The msgspec struct of the request; None if only the contract decodes.
        contract: The pydantic model of the request.
    """
    return partial(_decoded, msgspec.json.Decoder(struct) if struct is not None else None, contract)


def features_struct() -> Any:
    """Returns the struct of `serving.contract.FeaturesRequest`."""
    ids = Annotated[list[_EntityId], Meta(max_length=MAX_IDS)]
    return _struct(
        "Features", [("group", Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]), ("ids", ids), *_COMMON], ["at"]
    )


def predict_struct(model: Model) -> Any:
    """Returns the struct of a model's `serving.contract.PredictRequest`."""
    fields: list[Any] = [(key, _EntityId) for key in model.vector.keys]
    if model.request:
        required = any(column.required for column in model.request)
        context = _columns("Context", model, [], optional=False)
        fields.append(("context", context) if required else ("context", context, msgspec.field(default_factory=context)))
    else:
        fields.append(("context", _AnyContext, msgspec.field(default_factory=dict)))
    return _struct("Predict", [*fields, *_outcome_field(model), *_COMMON], ["at"])


def score_struct(model: Model) -> Any:
    """Returns the struct of a model's `serving.contract.ScoreRequest`."""
    keys: list[Any] = [*((key, _EntityId | None, None) for key in model.vector.keys), *_outcome_field(model)]
    candidate: Any = _columns("Candidate", model, keys, optional=True)
    candidates = Annotated[list[candidate], Meta(min_length=1, max_length=MAX_IDS)]
    fields: list[Any] = [*keys, ("candidates", candidates)]
    if model.request:
        context = _columns("CommonContext", model, [], optional=True)
        fields.append(("context", context, msgspec.field(default_factory=context)))
    return _struct("Score", [*fields, *_COMMON], ["at"])


def _outcome_field(model: Model) -> list[Any]:
    return [] if model.outcome_field is None else [(model.outcome_field, _EntityId | None, None)]


def refusal_of(error: ValidationError, contract: type[BaseModel]) -> RefusalError:
    """Returns the response to a body outside the contract, from the first error of the validation."""
    # The response contains no value, and only the beginning of a field's name, because an invalid request may contain a secret.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = first["loc"]
    where = ".".join(str(part)[:64] for part in place[: 3 if place[:1] == ("candidates",) else 2])
    reason = first["msg"].removeprefix("Value error, ")
    # A missing, unknown or wrong request column is an error in the caller's data and not in the form of the request, so its status is 422. In a
    # candidate, each field that the request itself does not have is a request column.
    in_context = place[:1] == ("context",) and len(place) > 1
    in_candidate = place[:1] == ("candidates",) and len(place) > 2 and place[2] not in contract.model_fields
    status = 422 if in_context or in_candidate else 400
    return RefusalError(
        status, f"The request does not pass validation{f' at {where}' if where else ''}: {reason}.", "The page of the API is at /."
    )


def _decoded(fast: msgspec.json.Decoder[Any] | None, contract: type[BaseModel], body: bytes) -> Any:
    if fast is not None:
        with suppress(ValueError):  # every error of msgspec, and the error of a body that is not UTF-8
            return fast.decode(body)
    try:
        return contract.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error, contract) from None


def _columns(name: str, model: Model, keys: list[Any], optional: bool) -> Any:
    """Returns the struct with the fields `keys` and a model's request columns; with `optional`, no column is required."""
    columns: list[Any] = [
        (column.name, _COLUMN_TYPES[column.type])
        if column.required and not optional
        else (column.name, _COLUMN_TYPES[column.type] | None, None)
        for column in model.request
    ]
    instants, decimals = (
        [column.name for column in model.request if column.type is kind] for kind in (ColumnType.TIMESTAMP, ColumnType.DECIMAL)
    )
    return _struct(name, [*keys, *columns], instants, decimals)


def _struct(name: str, fields: list[Any], instants: list[str], decimals: list[str] | None = None) -> Any:
    def finish(message: Any) -> None:
        for field in instants:
            if isinstance(value := getattr(message, field), str):
                setattr(message, field, instant_ms(value))
        for field in decimals or ():
            if (value := getattr(message, field)) is not None:
                setattr(message, field, six_places(value))

    return msgspec.defstruct(name, fields, namespace={"__post_init__": finish}, kw_only=True, forbid_unknown_fields=True, gc=False)
