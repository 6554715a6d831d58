"""From what the store gave to what the caller gets. Pure. What leaves here has been validated by its type."""

from __future__ import annotations

from features.declaration import FeatureGroup
from serving.contract import FeatureRow, ModelInfo, PredictResponse, Provenance, rfc3339
from serving.merge import Merged, merge
from serving.model import LoadedModel
from serving.store import Parts


def merged_features(group: FeatureGroup, parts: Parts, q_ms: int, batch_end_ms: int | None) -> Merged:
    """The entity's features at `q_ms`. Raises ValueError where `q_ms` lies before batch_end."""
    return merge(group, parts.batch, parts.tiles, q_ms, batch_end_ms)


def feature_row(group: FeatureGroup, one: int | str, parts: Parts, merged: Merged, q_ms: int) -> FeatureRow:
    """The row of one entity."""
    names = group.feature_names
    return FeatureRow(
        id=one, features=dict(zip(names, merged.values, strict=True)), provenance=_provenance(names, parts, merged, q_ms)
    )


def prediction(group: FeatureGroup, user_id: int, parts: Parts, merged: Merged, q_ms: int, model: LoadedModel) -> PredictResponse:
    """The answer of a model for one user."""
    names = group.feature_names
    values = group.model_input(dict(zip(names, merged.values, strict=True)))
    return PredictResponse(
        user_id=user_id,
        prediction=model.predict(values),
        features_used=dict(zip(names, values, strict=True)),
        model=ModelInfo(name=model.name, version=model.version, variant="champion"),
        provenance=_provenance(names, parts, merged, q_ms, model.fault),
    )


def _provenance(names: tuple[str, ...], parts: Parts, merged: Merged, q_ms: int, fault: str = "") -> Provenance:
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
        missing=missing,
    )
