"""The answers of serving as a client gets them. The API's schema is their measure: a test holds the fields against it."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Provenance(msgspec.Struct, frozen=True):
    """Where an answer comes from.

    Attributes:
        as_of: The time that the values are of.
        batch_end: Where batch ends and speed begins; None where nothing is published, and in Kappa.
        newest_event: The latest event that went in; None without events.
        tiles_merged: How many speed tiles went in.
        degraded: Whether values may not be exact.
        degraded_reasons: Why.
        degraded_features: Which; every other value is exact.
        missing: The features without a value.
        architecture: What made the values: "lambda" or "kappa".
    """

    as_of: datetime
    batch_end: datetime | None
    newest_event: datetime | None
    tiles_merged: int
    degraded: bool
    degraded_reasons: list[str]
    degraded_features: list[str]
    missing: list[str]
    architecture: str = "lambda"


class FeatureRow(msgspec.Struct, frozen=True):
    """The features of one entity, None where there is no value; a list is the value of `last_k` and `top_k`.

    The id of an entity of several columns has the value of each column.
    """

    id: int | str | dict[str, int | str]
    features: dict[str, float | int | list[float | int | str] | None]
    provenance: Provenance


class ModelInfo(msgspec.Struct, frozen=True):
    """The registered model that answered, and the variant that the entity has in a running experiment ("champion" without one)."""

    name: str
    version: str
    variant: str


class Prediction(msgspec.Struct, frozen=True):
    """A prediction.

    Attributes:
        prediction: The probability of the outcome, from 0 to 1; by the model's objective a number, or the probability of each class.
        features_used: Every input of the model; the declared default where a feature has no value.
        model: The model that answered.
        provenance: Where the features come from.
        inputs: The provenance of each input of a model with several.
    """

    prediction: float | dict[str, float]
    features_used: dict[str, float]
    model: ModelInfo
    provenance: Provenance
    inputs: dict[str, Provenance] = {}


class CandidateScore(msgspec.Struct, frozen=True):
    """The prediction for a candidate, and whether any value behind it may not be exact."""

    prediction: float | dict[str, float]
    degraded: bool


class Scores(msgspec.Struct, frozen=True):
    """The predictions in the order of the candidates, and where the features come from."""

    candidates: list[CandidateScore]
    model: ModelInfo
    provenance: Provenance


class FeatureRows(msgspec.Struct, frozen=True):
    """The answer of `/features`: a row per id, in the order of the ids."""

    rows: list[FeatureRow]
