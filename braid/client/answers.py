"""The types of the answers that a client returns. A test compares their fields with the schema of the API."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Provenance(msgspec.Struct, frozen=True):
    """The data from which the values of an answer are computed.

    Attributes:
        as_of: The time of the values.
        batch_end: The time up to which the batch view counts; from there on the speed tiles count. None before the first publication, and in Kappa.
        newest_event: The time of the latest event that is included; None without events.
        tiles_merged: The number of speed tiles that are included.
        degraded: Whether values may be inexact.
        degraded_reasons: The reasons why values may be inexact.
        degraded_features: The names of the features that may be inexact; every other value is exact.
        missing: The names of the features without a value.
        architecture: The architecture that computed the values: "lambda" or "kappa".
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
    """The features of one entity.

    Attributes:
        id: The id of the entity; for an entity of several columns, column → value.
        features: Feature → value. None if the feature has no value; a list for `last_k` and `top_k`.
        provenance: The data from which the features are computed.
    """

    id: int | str | dict[str, int | str]
    features: dict[str, float | int | list[float | int | str] | None]
    provenance: Provenance


class ModelInfo(msgspec.Struct, frozen=True):
    """The registered model that answered.

    Attributes:
        name: The name of the model.
        version: The version in MLflow.
        variant: The variant to which the running experiment assigns the entity; "champion" without an experiment.
    """

    name: str
    version: str
    variant: str


class Prediction(msgspec.Struct, frozen=True):
    """A prediction.

    Attributes:
        prediction: According to the objective of the model, the probability of the outcome (0 to 1), a number, or the probability of each class.
        features_used: Name → value of every input of the model. A feature without a value has its declared default.
        model: The model that answered.
        provenance: The data from which the features are computed.
        inputs: Name → provenance of each input, if the model has several inputs.
    """

    prediction: float | dict[str, float]
    features_used: dict[str, float]
    model: ModelInfo
    provenance: Provenance
    inputs: dict[str, Provenance] = {}


class CandidateScore(msgspec.Struct, frozen=True):
    """The prediction for a candidate, and whether any value that it is computed from may be inexact."""

    prediction: float | dict[str, float]
    degraded: bool


class Scores(msgspec.Struct, frozen=True):
    """The predictions, in the order of the candidates, with their model and the data from which the features are computed."""

    candidates: list[CandidateScore]
    model: ModelInfo
    provenance: Provenance


class FeatureRows(msgspec.Struct, frozen=True):
    """The answer of `/features`: a row for each id, in the order of the ids."""

    rows: list[FeatureRow]
