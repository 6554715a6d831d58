"""Encodes answers as JSON: for each pydantic model of `serving.contract` that an answer consists of, a msgspec struct with the same fields.

The page of the API shows the pydantic models. msgspec makes and encodes an answer without pydantic objects, which is faster. A test checks that the
encoded answers pass the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from features.aggregations import Value

_encoder = msgspec.json.Encoder()


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """The struct of `serving.contract.Provenance`."""

    as_of: str
    batch_end: str | None
    newest_event: str | None
    tiles_merged: int
    degraded: bool
    degraded_reasons: Sequence[str]
    degraded_features: Sequence[str]
    missing: Sequence[str]
    architecture: str = "lambda"


class FeatureRow(msgspec.Struct, frozen=True, gc=False):
    """The struct of `serving.contract.FeatureRow`."""

    id: int | str | Mapping[str, int | str]
    features: Any
    provenance: Provenance


@cache
def features_struct(names: tuple[str, ...]) -> Any:
    """Returns the struct of `features` in a row, with a field for each feature.

    Args:
        names: The names of the features, in the order of the values.
    """
    fields: list[Any] = [(f"value_{index}", Value) for index in range(len(names))]
    return msgspec.defstruct(
        "Features", fields, rename={f"value_{index}": name for index, name in enumerate(names)}, frozen=True, gc=False
    )


class FeaturesAnswer(msgspec.Struct, frozen=True, gc=False):
    """The struct of `serving.contract.FeaturesResponse`."""

    rows: Sequence[FeatureRow]


class ModelInfo(msgspec.Struct, frozen=True, gc=False):
    """The struct of `serving.contract.ModelInfo`."""

    name: str
    version: str
    variant: str


class CandidateScore(msgspec.Struct, frozen=True, gc=False):
    """The struct of `serving.contract.CandidateScore`."""

    prediction: float | Mapping[str, float]
    degraded: bool


class ScoreAnswer(msgspec.Struct, frozen=True, gc=False):
    """The struct of `serving.contract.ScoreResponse`."""

    candidates: Sequence[CandidateScore]
    model: ModelInfo
    provenance: Provenance


@cache
def predict_answer(keys: tuple[str, ...], several: bool = False) -> Any:
    """Returns the struct of `serving.contract.PredictResponse` for a model with these keys; with `several`, for a model with several inputs."""
    fields = [
        *((key, int | str) for key in keys),
        ("prediction", float | Mapping[str, float]), ("features_used", Mapping[str, float]), ("model", ModelInfo), ("provenance", Provenance),
        *([("inputs", Mapping[str, Provenance])] if several else []),
    ]  # fmt: skip
    return msgspec.defstruct("PredictAnswer", fields, frozen=True, gc=False)


def encoded(answer: msgspec.Struct) -> bytes:
    """Encodes an answer as JSON."""
    return _encoder.encode(answer)
