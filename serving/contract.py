"""The contract over HTTP: what a request may say and what an answer says. Times are RFC 3339, UTC, to the millisecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from features.declaration import MAX_ENTITY_LENGTH
from features.instants import rfc3339 as rfc3339  # noqa: PLC0414  # other rooms import it from here
from features.model import Model
from features.objective import Objective
from features.sources import ColumnType

#: Entities in one request; more are asked in several.
MAX_IDS = 1_000
MAX_BODY_BYTES = 64 * 1_024
#: Characters of a text in `context`.
MAX_TEXT_LENGTH = 4_096
#: Characters of the name of a group, and of a use case.
MAX_NAME_LENGTH, MAX_USE_CASE_LENGTH = 128, 64
#: Values in `context` of a model without request columns.
MAX_CONTEXT = 64
#: A decimal lies between this and its negative.
MAX_DECIMAL = 1e12
#: The last millisecond of the year 9999.
LAST_MS = 253_402_300_799_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_ms(given: Any) -> int:
    """The milliseconds of an instant, rounded down. Strict: a number of seconds must not pass for one of milliseconds."""
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


#: An instant: RFC 3339 with an offset, or milliseconds since 1970. Held in milliseconds.
Instant = Annotated[
    int,
    BeforeValidator(instant_ms),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]}),
]
Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
EntityId = Int64 | Annotated[str, Field(min_length=1, max_length=MAX_ENTITY_LENGTH)]
#: The id of an entity of several columns, by their names.
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
    # "model" is a word of the contract, pydantic's own prefix is not.
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


_Body = TypeVar("_Body", bound=_Message)


class PredictRequest(_Message):
    """Asks a model for a prediction about an entity, whose id stands in a field of the entity's name.

    `context` is what the caller knows of the moment: the request columns of the model. A model without request columns takes any
    values and uses none of them. The served log stores the request columns of a share of the answers, and nothing else of `context`.
    """

    context: dict[str, str | float | int | bool | None] = Field(default_factory=dict, max_length=MAX_CONTEXT)
    at: Instant | None = Field(None, description="The time that is asked about; default now.")
    use_case: UseCaseName | None = None


class FeaturesRequest(_Message):
    """Asks for the features of entities, at one time.

    The id of an entity of several columns is an object with a value for each column, such as `{"card_id": 17, "terminal_id": "t9"}`.
    """

    group: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    ids: list[EntityId | CompositeId] = Field(max_length=MAX_IDS)
    at: Instant | None = Field(None, description="The time that is asked about; default now. Not before batch_end.")
    use_case: UseCaseName | None = None


class Provenance(_Message):
    """Where an answer comes from.

    `as_of` is the time asked about, `batch_end` where batch ends and speed begins, `newest_event` the latest event that went in,
    `tiles_merged` the number of speed tiles; `degraded` says that values may not be exact, and `degraded_reasons` why;
    `degraded_features` names those features, and every other value is exact; `missing` names the features that have no value.
    `architecture` is what made the values: in Kappa the stream alone, so there is no `batch_end`.
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
    """One entity's features, null where there is no value. A list is the value of `last_k` and `top_k`."""

    id: int | str | dict[str, int | str]
    features: dict[str, float | int | list[float | int | str] | None]
    provenance: Provenance


class FeaturesResponse(_Message):
    """One row per id, in the order of the ids."""

    rows: list[FeatureRow]


class ModelInfo(_Message):
    """The registered model that answered, and the variant that the user has in a running experiment ("champion" without one)."""

    name: str
    version: str
    variant: str


class PredictResponse(_Message):
    """A prediction, what the model was given for it (the declared default where a feature has no value), and where that is from.

    The entity's id stands in a field of the entity's name. The prediction is a probability, a number, or the probability of each class.
    """

    prediction: float = Field(ge=0, le=1)
    features_used: dict[str, float]
    model: ModelInfo
    provenance: Provenance


class UnansweredRequest(PredictRequest):
    """A request of any form, in a project without models: the response says that there is none."""

    model_config = ConfigDict(extra="allow")


#: The values of request columns, as a column of an event has them: a decimal has six places.
_REQUEST_TYPES: dict[ColumnType, Any] = {
    ColumnType.STRING: Annotated[str, Field(strict=True, max_length=MAX_TEXT_LENGTH)],
    ColumnType.INT64: Int64,
    ColumnType.DECIMAL: Annotated[
        float,
        Field(strict=True, allow_inf_nan=False, gt=-MAX_DECIMAL, lt=MAX_DECIMAL),
        AfterValidator(lambda value: round(value, 6)),
    ],
    ColumnType.TIMESTAMP: Instant,
}


#: Objective → the type of a prediction.
_PREDICTIONS: dict[Objective, Any] = {
    Objective.REGRESSION: float,
    Objective.MULTICLASS: dict[str, Annotated[float, Field(ge=0, le=1)]],
}


def predict_contract(model: Model | None) -> tuple[type[PredictRequest], type[PredictResponse]]:
    """The request and the response of a model's endpoint, with a field for each key, such as `user_id`; None without a model.

    `context` has the declared request columns; without any it takes what the caller likes.
    """
    if model is None:
        return UnansweredRequest, PredictResponse
    vector = model.vector

    def with_keys(message: type[_Body], kind: Any) -> type[_Body]:
        # The fields of the last base come first, on the page of the API and in answers.
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
    """Asks a model for predictions about many candidates, such as items that may be shown to a user.

    A key or a request column that is the same for all candidates stands in the request and in its `context`; what differs stands in each
    candidate.
    """

    at: Instant | None = Field(None, description="The time that is asked about; default now.")
    use_case: UseCaseName | None = None


class CandidateScore(_Message):
    """The prediction for a candidate, and whether any value behind it may not be exact."""

    prediction: float = Field(ge=0, le=1)
    degraded: bool


class ScoreResponse(_Message):
    """The predictions, in the order of the candidates, and where the features come from."""

    candidates: list[CandidateScore]
    model: ModelInfo
    provenance: Provenance


def score_contract(model: Model) -> tuple[type[ScoreRequest], type[ScoreResponse]]:
    """The request and the response of a model's endpoint for many candidates."""
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
    """The field of a request that its outcome is joined by, if no key or request column is it already."""
    if model.outcome_field is None:
        return {}
    text = "What the outcome will name, for the served log: live quality and experiments know the outcome by it. The prediction does not depend on it."
    return {model.outcome_field: (EntityId | None, Field(None, description=text))}


def _name(model: Model, message: type[BaseModel] | str) -> str:
    """The name of a message of one model; the page of the API shows messages of one name as one."""
    return f"{model.name.title().replace('_', '')}{message if isinstance(message, str) else message.__name__}"


def _context_of(model: Model) -> Any:
    columns: dict[str, Any] = {
        column.name: (_REQUEST_TYPES[column.type], ...) if column.required else (_REQUEST_TYPES[column.type] | None, None)
        for column in model.request
    }
    return create_model(_name(model, "Context"), __base__=_Message, **columns)
