"""The contract over HTTP: the fields and bounds of requests, and the fields of answers. Times in answers are RFC 3339, UTC, to the millisecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from features.declaration import MAX_ENTITY_LENGTH
from features.instants import rfc3339 as rfc3339  # noqa: PLC0414  # other rooms import it from here
from features.model import Model
from features.objective import Objective
from features.sources import ColumnType

#: The largest number of entities or candidates in one request.
MAX_IDS = 1_000
MAX_BODY_BYTES = 64 * 1_024
#: The largest number of characters of a text in `context`.
MAX_TEXT_LENGTH = 4_096
#: The largest number of characters of the name of a group, and of a use case.
MAX_NAME_LENGTH, MAX_USE_CASE_LENGTH = 128, 64
#: The largest number of values in `context` for a model without request columns.
MAX_CONTEXT = 64
#: The bound of a decimal: its absolute value is smaller.
MAX_DECIMAL = 1e12
#: The last millisecond of the year 9999.
LAST_MS = 253_402_300_799_999

_MICRO = Decimal("0.000001")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_ms(given: Any) -> int:
    """Returns an instant in milliseconds since 1970, rounded down.

    Args:
        given: An RFC 3339 text with its offset, or an integer, which always means milliseconds. A float is refused, because it is usually a number
            of seconds.

    Raises:
        ValueError: The value is of another type or form, or lies outside the years 1970 to 9999.
    """
    if type(given) is int:
        milliseconds = given
    elif isinstance(given, str):
        try:
            instant = datetime.fromisoformat(given)
        except ValueError:
            raise ValueError("a time is RFC 3339 with its offset, or whole milliseconds since 1970") from None
        if instant.tzinfo is None:
            raise ValueError("a time needs its offset, such as Z or +02:00")
        milliseconds = (instant - _EPOCH) // timedelta(milliseconds=1)
    else:
        raise ValueError("a time is RFC 3339 with its offset, or whole milliseconds since 1970")
    if not 0 <= milliseconds <= LAST_MS:
        raise ValueError("a time lies between the years 1970 and 9999")
    return milliseconds


def six_places(number: float) -> float:
    """Rounds a number to six decimal places by its digits, a half to the even digit, as a column of an event is. `round` rounds the binary number."""
    if round(number, 6) != number:
        number = float(Decimal(repr(number)).quantize(_MICRO, ROUND_HALF_EVEN))
    return number + 0.0  # + 0.0 makes 0.0 of -0.0


#: An instant: RFC 3339 with an offset, or milliseconds since 1970. The validated value is in milliseconds.
Instant = Annotated[
    int,
    BeforeValidator(instant_ms),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]}),
]
Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
EntityId = Int64 | Annotated[str, Field(min_length=1, max_length=MAX_ENTITY_LENGTH)]
#: The id of an entity of several columns: column → value.
CompositeId = dict[str, EntityId]


UseCaseName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_USE_CASE_LENGTH,
        description="A use case of the deployment's settings: what the answer does when features are stale.",
    ),
]


class _Message(BaseModel):
    # Fields of the contract may begin with "model", so pydantic's protected prefix is switched off.
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


_Body = TypeVar("_Body", bound=_Message)


class PredictRequest(_Message):
    """A request for a prediction about an entity. The id of the entity is a field with the name of the entity, such as `user_id`.

    `context` has the request columns of the model, which are values that the caller knows. A model without request columns accepts any values and
    uses none of them. The served log stores the request columns of a share of the answers, and nothing else of `context`.
    """

    context: dict[str, str | float | int | bool | None] = Field(default_factory=dict, max_length=MAX_CONTEXT)
    at: Instant | None = Field(None, description="The time that is asked about; default now.")
    use_case: UseCaseName | None = None


class FeaturesRequest(_Message):
    """A request for the features of entities at one time.

    The id of an entity of several columns is an object with a value for each column, such as `{"card_id": 17, "terminal_id": "t9"}`.
    """

    group: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    ids: list[EntityId | CompositeId] = Field(max_length=MAX_IDS)
    at: Instant | None = Field(None, description="The time that is asked about; default now. Not before batch_end.")
    use_case: UseCaseName | None = None


class Provenance(_Message):
    """The data from which an answer is computed.

    `as_of` is the time that the request asks about. `batch_end` is the time up to which the batch view covers every event. `newest_event` is the
    time of the newest event that is used. `tiles_merged` is the number of speed tiles that are used. `degraded` is true if values may be inexact,
    and `degraded_reasons` has the reasons. `degraded_features` names the features whose values may be inexact; every other value is exact.
    `missing` names the features without a value. `architecture` is "lambda" or "kappa". In Kappa the stream alone computes the values, so
    `batch_end` is null.
    """

    as_of: str
    batch_end: str | None
    newest_event: str | None
    tiles_merged: int
    degraded: bool
    degraded_reasons: list[str]
    degraded_features: list[str]
    missing: list[str]
    architecture: Literal["lambda", "kappa"] = "lambda"


class FeatureRow(_Message):
    """The features of one entity. A feature without a value is null. The values of `last_k` and `top_k` are lists."""

    id: int | str | dict[str, int | str]
    features: dict[str, float | int | list[float | int | str] | None]
    provenance: Provenance


class FeaturesResponse(_Message):
    """The features of the requested entities: one row per id, in the order of the ids."""

    rows: list[FeatureRow]


class ModelInfo(_Message):
    """The registered model that answered, and the variant whose model it is ("champion" without a running experiment)."""

    name: str
    version: str
    variant: str


class PredictResponse(_Message):
    """A prediction, the model's inputs (the declared default if a feature has no value), and the provenance of the features.

    The id of the entity is a field with the name of the entity. The prediction is a probability, a number, or the probability of each class.
    """

    prediction: float = Field(ge=0, le=1)
    features_used: dict[str, float]
    model: ModelInfo
    provenance: Provenance


class UnansweredRequest(PredictRequest):
    """A request of any form to a project without models, whose response has the status 404."""

    model_config = ConfigDict(extra="allow")


#: Type of a request column → type of its values. They are those of event columns, so a decimal is rounded to six places.
_REQUEST_TYPES: dict[ColumnType, Any] = {
    ColumnType.STRING: Annotated[str, Field(strict=True, max_length=MAX_TEXT_LENGTH)],
    ColumnType.INT64: Int64,
    ColumnType.DECIMAL: Annotated[
        float,
        Field(strict=True, allow_inf_nan=False, gt=-MAX_DECIMAL, lt=MAX_DECIMAL),
        AfterValidator(six_places),
    ],
    ColumnType.TIMESTAMP: Instant,
}


#: Objective → the type of a prediction.
_PREDICTIONS: dict[Objective, Any] = {
    Objective.REGRESSION: float,
    Objective.MULTICLASS: dict[str, Annotated[float, Field(ge=0, le=1)]],
}


def predict_contract(model: Model | None) -> tuple[type[PredictRequest], type[PredictResponse]]:
    """Returns the contracts of the request and of the response of a model's endpoint, with a field for each key, such as `user_id`.

    `context` has the declared request columns. Without request columns it accepts any values.

    Args:
        model: The declaration; None in a project without models.
    """
    if model is None:
        return UnansweredRequest, PredictResponse
    vector = model.vector

    def with_keys(message: type[_Body], kind: Any) -> type[_Body]:
        # pydantic puts the fields of the last base first, so the keys are the first fields on the page of the API and in answers.
        keys: dict[str, Any] = dict.fromkeys(vector.keys, (kind, ...))
        identified = create_model("Identified", __base__=_Message, **keys)
        bases: Any = (message, identified)
        return create_model(_name(model, message), __base__=bases, __doc__=message.__doc__)

    request, response = with_keys(PredictRequest, EntityId), with_keys(PredictResponse, int | str)
    asked = _outcome_field(model)
    if vector.request:
        required = any(column.required for column in vector.request)
        context = _context_of(model)
        asked["context"] = (context, ... if required else Field(default_factory=context))
    if asked:
        request = create_model(_name(model, PredictRequest), __base__=request, __doc__=PredictRequest.__doc__, **asked)
    fields: dict[str, Any] = {}
    if len(vector.inputs) > 1:
        fields["inputs"] = (dict[str, Provenance], ...)
    if model.objective is not Objective.BINARY:
        fields["prediction"] = (_PREDICTIONS[model.objective], ...)
    if fields:
        response = create_model(_name(model, PredictResponse), __base__=response, __doc__=PredictResponse.__doc__, **fields)
    return cast("tuple[type[PredictRequest], type[PredictResponse]]", (request, response))


class ScoreRequest(_Message):
    """A request for predictions about many candidates, such as items that may be shown to a user.

    A value that is the same for all candidates is sent once: a key as a field of the request, a request column as a field of `context`. Keys and
    request columns that differ between candidates are fields of each candidate.
    """

    at: Instant | None = Field(None, description="The time that is asked about; default now.")
    use_case: UseCaseName | None = None


class CandidateScore(_Message):
    """The prediction for a candidate, and whether any of its inputs may be inexact."""

    prediction: float = Field(ge=0, le=1)
    degraded: bool


class ScoreResponse(_Message):
    """The predictions, in the order of the candidates, and the provenance of their features."""

    candidates: list[CandidateScore]
    model: ModelInfo
    provenance: Provenance


def score_contract(model: Model) -> tuple[type[ScoreRequest], type[ScoreResponse]]:
    """Returns the contracts of the request and of the response of a model's endpoint for many candidates."""
    keys: dict[str, Any] = dict.fromkeys(model.vector.keys, (EntityId | None, None)) | _outcome_field(model)
    columns: dict[str, Any] = {column.name: (_REQUEST_TYPES[column.type] | None, None) for column in model.request}
    candidate: Any = create_model(_name(model, "Candidate"), __base__=_Message, **keys, **columns)
    fields: dict[str, Any] = {**keys, "candidates": (list[candidate], Field(min_length=1, max_length=MAX_IDS))}
    if columns:
        context = create_model(_name(model, "CommonContext"), __base__=_Message, **columns)
        fields["context"] = (context, Field(default_factory=context))
    request = create_model(_name(model, ScoreRequest), __base__=ScoreRequest, __doc__=ScoreRequest.__doc__, **fields)
    if model.objective is Objective.BINARY:
        return request, ScoreResponse
    predicted: dict[str, Any] = {"prediction": (_PREDICTIONS[model.objective], ...)}
    scored: Any = create_model(_name(model, CandidateScore), __base__=CandidateScore, __doc__=CandidateScore.__doc__, **predicted)
    rows: dict[str, Any] = {"candidates": (list[scored], ...)}
    return request, create_model(_name(model, ScoreResponse), __base__=ScoreResponse, __doc__=ScoreResponse.__doc__, **rows)


def _outcome_field(model: Model) -> dict[str, Any]:
    """Returns the field of a request by which its outcome is joined; empty if a key or a request column has that name, or if none is needed."""
    if model.outcome_field is None:
        return {}
    text = "What the outcome will name, for the served log: live quality and experiments know the outcome by it. The prediction does not depend on it."
    return {model.outcome_field: (EntityId | None, Field(None, description=text))}


def _name(model: Model, message: type[BaseModel] | str) -> str:
    """Returns the name of a message of one model. It contains the model's name, because the page of the API shows messages of one name once."""
    return f"{model.name.title().replace('_', '')}{message if isinstance(message, str) else message.__name__}"


def _context_of(model: Model) -> Any:
    columns: dict[str, Any] = {
        column.name: (_REQUEST_TYPES[column.type], ...) if column.required else (_REQUEST_TYPES[column.type] | None, None)
        for column in model.request
    }
    return create_model(_name(model, "Context"), __base__=_Message, **columns)
