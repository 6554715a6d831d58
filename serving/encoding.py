"""Answers as they are encoded: for each model of `serving.contract` that an answer consists of, a struct with the same fields.

The models are what the API's page shows. An answer is made and encoded by msgspec, with no object of pydantic in between; a test holds that
what is encoded passes the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from features.aggregations import Value

_encoder = msgspec.json.Encoder()


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """`serving.contract.Provenance`."""

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
    """`serving.contract.FeatureRow`."""

    id: int | str | Mapping[str, int | str]
    features: Any
    provenance: Provenance


@cache
def features_struct(names: tuple[str, ...]) -> Any:
    """The struct of `features` in a row: the value of each feature by its name."""
    fields: list[Any] = [(f"value_{index}", Value) for index in range(len(names))]
    return msgspec.defstruct(
        "Features", fields, rename={f"value_{index}": name for index, name in enumerate(names)}, frozen=True, gc=False
    )


class FeaturesAnswer(msgspec.Struct, frozen=True, gc=False):
    """`serving.contract.FeaturesResponse`."""

    rows: Sequence[FeatureRow]


class ModelInfo(msgspec.Struct, frozen=True, gc=False):
    """`serving.contract.ModelInfo`."""

    name: str
    version: str
    variant: str


class CandidateScore(msgspec.Struct, frozen=True, gc=False):
    """`serving.contract.CandidateScore`."""

    prediction: float | Mapping[str, float]
    degraded: bool


class ScoreAnswer(msgspec.Struct, frozen=True, gc=False):
    """`serving.contract.ScoreResponse`."""

    candidates: Sequence[CandidateScore]
    model: ModelInfo
    provenance: Provenance


@cache
def predict_answer(keys: tuple[str, ...], several: bool = False) -> Any:
    """The struct of `serving.contract.PredictResponse` for a model with these keys; `several` for one of several inputs."""
    fields = [
        *((key, int | str) for key in keys),
        ("prediction", float | Mapping[str, float]), ("features_used", Mapping[str, float]), ("model", ModelInfo), ("provenance", Provenance),
        *([("inputs", Mapping[str, Provenance])] if several else []),
    ]  # fmt: skip
    return msgspec.defstruct("PredictAnswer", fields, frozen=True, gc=False)


def encoded(answer: msgspec.Struct) -> bytes:
    """The JSON of an answer."""
    return _encoder.encode(answer)
