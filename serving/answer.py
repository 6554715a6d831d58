"""From what the store gave to what the caller gets. Pure. What leaves here has been validated by its type."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from features.declaration import FeatureGroup
from features.merge import Merged, merge
from infra.policies import WhenStale
from serving.contract import FeatureRow, ModelInfo, PredictResponse, Provenance, rfc3339
from serving.errors import RefusalError
from serving.model import LoadedModel
from store.protocol import Parts


class Stale(NamedTuple):
    """That a group is older than a use case allows: what is served then, and the reason that the answer gives."""

    then: WhenStale
    reason: str


class Served(NamedTuple):
    """One entity's features as they are served.

    Attributes:
        parts: What the store had.
        merged: The features, and what of the parts went in.
        at_ms: The instant that they are of: the one that was asked about, or batch_end where batch alone was asked.
    """

    parts: Parts
    merged: Merged
    at_ms: int


def served_features(
    group: FeatureGroup,
    parts: Parts,
    q_ms: int,
    batch_end_ms: int | None,
    stale: Stale | None = None,
    batch_only: bool = False,
    complete_since_ms: int | None = None,
) -> Served:
    """The entity's features at `q_ms`.

    Args:
        group: The declaration.
        parts: What the store has of the entity.
        q_ms: When.
        batch_end_ms: The group's batch_end, for an entity without a view of its own.
        stale: Given where the group is older than the use case allows.
        batch_only: Whether to give what batch alone would: the features as of batch_end.
        complete_since_ms: Since when no event is missing in the speed tiles; None where none ever is.

    Raises:
        RefusalError: `q_ms` lies before batch_end.
    """
    end_ms = parts.batch.batch_end_ms if parts.batch is not None else batch_end_ms
    if end_ms is not None and q_ms < end_ms:
        raise RefusalError(
            409,
            f"The time {rfc3339(q_ms)} lies before batch_end, {rfc3339(end_ms)}: the view already holds what came after it.",
            "Ask for a later time, or take the past from the training set.",
        )
    batch_only = batch_only or (stale is not None and stale.then is WhenStale.BATCH_ONLY)
    at_ms = end_ms if batch_only and end_ms is not None else q_ms
    merged = merge(group, parts.batch, () if batch_only else parts.tiles, at_ms, batch_end_ms, complete_since_ms)
    if stale is not None:
        merged = replace(merged, reasons={**merged.reasons, stale.reason: range(len(group.features))})
        if stale.then is WhenStale.DEFAULT:
            merged = replace(merged, values=[None] * len(group.features), tiles_merged=0)
    return Served(parts, merged, at_ms)


def feature_row(group: FeatureGroup, one: int | str, served: Served, q_ms: int) -> FeatureRow:
    """The row of one entity."""
    names = group.feature_names
    features = dict(zip(names, served.merged.values, strict=True))
    return FeatureRow(id=one, features=features, provenance=_provenance(names, served, q_ms))


def prediction(
    group: FeatureGroup, entity_id: int | str, served: Served, q_ms: int, model: LoadedModel, variant: str, response: type[PredictResponse]
) -> PredictResponse:  # fmt: skip
    """The answer of a model about one entity, on the features of the version `group`; `response` is its type in the API."""
    values, fault = model.input_of(group, served.merged.values)
    return response(
        **{group.entity: entity_id},  # type: ignore[arg-type]
        prediction=model.predict(values),
        features_used=dict(zip(model.group.model_names, values, strict=True)),
        model=ModelInfo(name=model.name, version=model.version, variant=variant),
        provenance=_provenance(group.feature_names, served, q_ms, fault),
    )


def _provenance(names: tuple[str, ...], served: Served, q_ms: int, fault: str = "") -> Provenance:
    parts, merged, _ = served
    # Of an entity that no layer knows, also a count of 0 is a default and not a finding.
    known = parts.known
    missing = [name for name, value in zip(names, merged.values, strict=True) if value is None or not known]
    reasons = [*parts.faults, *merged.degraded, fault] if fault else [*parts.faults, *merged.degraded]
    return Provenance(
        as_of=rfc3339(q_ms),
        batch_end=None if merged.batch_end_ms is None else rfc3339(merged.batch_end_ms),
        newest_event=None if merged.newest_event_ms is None else rfc3339(merged.newest_event_ms),
        tiles_merged=merged.tiles_merged,
        degraded=bool(reasons),
        degraded_reasons=reasons,
        degraded_features=list(names) if parts.faults else [names[index] for index in merged.degraded_features],
        missing=missing,
    )
