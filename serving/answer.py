"""Computes the answers to requests from readings of the online store. All functions are pure.

Reads `store.protocol.Reading`; returns structs of `serving.encoding`, which are encoded without further conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from features.declaration import FeatureGroup, ModelInput
from features.instants import rfc3339
from features.merge import EVER_MS, NOT_PUBLISHED, Merged
from features.merge_many import ManyMerge
from features.packed import HistoryView
from features.vector import FeatureVector
from infra.policies import WhenStale
from serving.encoding import FeatureRow, ModelInfo, Provenance, features_struct, predict_answer
from serving.errors import RefusalError
from serving.ids import RequestId
from serving.model import LoadedModel
from store.protocol import Parts, Reading


class Stale(NamedTuple):
    """The consequence if a group is older than a use case allows.

    Attributes:
        then: What is served.
        reason: The degraded reason in the answer.
    """

    then: WhenStale
    reason: str


class Served(msgspec.Struct, frozen=True, gc=False):
    """The served features of one entity.

    Attributes:
        parts: The batch view and the speed tiles that the store has of the entity.
        merged: The features, with their batch_end, newest event, number of tiles, and reasons why values may be inexact.
        at_ms: The instant of the features, in ms since 1970: the time of the request, or batch_end if batch features alone are served.
    """

    parts: Parts
    merged: Merged
    at_ms: int


def features_at(
    reading: Reading, q_ms: int, kept_ms: int, stale: Stale | None = None, batch_only: bool = False
) -> Callable[[Parts], Served]:
    """Returns a function that computes an entity's features at `q_ms` from its parts. It does the work that entities share once.

    The function raises RefusalError if `q_ms` lies before batch_end.

    Args:
        reading: The parts of the entities, as read from the store.
        q_ms: The time of the request, in ms since 1970.
        kept_ms: How long the store keeps speed tiles, in milliseconds.
        stale: See `served_features`.
        batch_only: See `served_features`.
    """
    group, end_ms, since_ms = reading.group, reading.batch_end_ms, max(q_ms - kept_ms, reading.complete_since_ms)
    at_q = ManyMerge(group, q_ms, end_ms, since_ms)
    if stale is not None or batch_only or not reading.published_known or (end_ms is not None and q_ms < end_ms):
        return partial(
            served_features, group, q_ms=q_ms, batch_end_ms=end_ms, stale=stale, batch_only=batch_only,
            complete_since_ms=since_ms, at_q=at_q, published_known=reading.published_known,
        )  # fmt: skip

    def serve(parts: Parts) -> Served:
        if parts.batch is not None and q_ms < parts.batch.batch_end_ms:
            return served_features(group, parts, q_ms, end_ms)  # raises RefusalError
        return Served(parts, at_q(parts.batch, parts.tiles), q_ms)

    return serve


def served_features(
    group: FeatureGroup,
    parts: Parts,
    q_ms: int,
    batch_end_ms: int | None,
    stale: Stale | None = None,
    batch_only: bool = False,
    complete_since_ms: int | None = None,
    at_q: ManyMerge | None = None,
    published_known: bool = True,
) -> Served:
    """Computes an entity's features at `q_ms`.

    Args:
        group: The declaration.
        parts: The batch view and the speed tiles that the store has of the entity.
        q_ms: The time of the request, in ms since 1970.
        batch_end_ms: The group's batch_end, for an entity without a view.
        stale: The consequence if the group is older than the use case allows; None if it is fresh enough.
        batch_only: Whether to return the features that batch alone would serve, which are those as of batch_end.
        complete_since_ms: The time since which no event is missing in the speed tiles; None if no event is missing at any time.
        at_q: The merge at `q_ms` with the same arguments, if many entities share it.
        published_known: See `store.protocol.Reading`.

    Raises:
        RefusalError: `q_ms` lies before batch_end.
    """
    end_ms = parts.batch.batch_end_ms if parts.batch is not None else batch_end_ms
    if end_ms is not None and q_ms < end_ms:
        what, part = (
            ("the end of the entity's history", "history") if isinstance(parts.batch, HistoryView) else ("batch_end", "view")
        )
        raise RefusalError(
            409,
            f"The time {rfc3339(q_ms)} lies before {what}, {rfc3339(end_ms)}: the {part} already holds what came after it.",
            "Ask for a later time, or take the past from the training set.",
        )
    batch_only = batch_only or (stale is not None and stale.then is WhenStale.BATCH_ONLY)
    at_ms = end_ms if batch_only and end_ms is not None and end_ms != EVER_MS else q_ms
    if at_q is None or at_ms != q_ms:
        at_q = ManyMerge(group, at_ms, batch_end_ms, complete_since_ms)
    merged = at_q(parts.batch, () if batch_only else parts.tiles)
    if not published_known:  # the faults of the parts have the reason
        merged = replace(merged, reasons={why: which for why, which in merged.reasons.items() if why != NOT_PUBLISHED})
    if stale is not None:
        merged = replace(merged, reasons={**merged.reasons, stale.reason: range(len(group.features))})
        if stale.then is WhenStale.DEFAULT:
            merged = replace(merged, values=[None] * len(group.features), tiles_merged=0)
    return Served(parts, merged, at_ms)


class Marks(NamedTuple):
    """The fields of `serving.contract.Provenance` that report inexact and missing features. The answer is degraded if there is a reason."""

    degraded_reasons: Sequence[str]
    degraded_features: Sequence[str]
    missing: Sequence[str]


_UNMARKED = Marks((), (), ())


def degraded_features(names: Sequence[str], served: Served) -> Sequence[str]:
    """Returns the names of an entity's features that may be inexact, of the names of all its features."""
    return names if served.parts.faults else [names[index] for index in served.merged.degraded_features]


class Provenances:
    """Makes the provenances of the entities of one answer, and computes the parts that entities share once.

    Args:
        names: The names of the features, in the order of the declaration.
        q_ms: The time of the request, in ms since 1970.
        architecture: The architecture that computed the values, "lambda" or "kappa".
    """

    def __init__(self, names: tuple[str, ...], q_ms: int, architecture: str = "lambda") -> None:
        self._names, self._as_of, self._architecture = names, rfc3339(q_ms), architecture
        # Most entities have the same batch_end as the one before.
        self._end_ms: int | None = None
        self._end: str | None = None

    def marks(self, served: Served, fault: str = "", lost: Sequence[str] = ()) -> Marks:
        """Returns the reasons why an entity's features may be inexact, and the features that are inexact or missing.

        Args:
            served: The features.
            fault: Why the model's input is degraded; empty if it is not.
            lost: The names of the features that are inexact for that reason.
        """
        parts, merged = served.parts, served.merged
        names, values = self._names, merged.values
        # If no layer knows the entity, every value is a default, even a count of 0.
        missing: Sequence[str] = ()
        if not parts.known:
            missing = names
        elif None in values:
            missing = [name for name, value in zip(names, values, strict=True) if value is None]
        reasons: Sequence[str] = ()
        features: Sequence[str] = ()
        if parts.faults or merged.reasons or fault:
            reasons = [*parts.faults, *merged.degraded, fault] if fault else [*parts.faults, *merged.degraded]
            features = degraded_features(names, served)
            if lost:
                features = list(dict.fromkeys((*features, *lost)))
        return Marks(reasons, features, missing) if reasons or missing else _UNMARKED

    def of(self, served: Served, fault: str = "", lost: Sequence[str] = ()) -> Provenance:
        """Returns the provenance of an entity's features. The arguments are those of `marks`."""
        merged = served.merged
        newest_ms, end_ms = merged.newest_event_ms, merged.batch_end_ms
        if end_ms != self._end_ms:
            self._end_ms, self._end = end_ms, None if end_ms is None else rfc3339(end_ms)
        reasons, features, missing = self.marks(served, fault, lost)
        return Provenance(
            self._as_of,
            self._end,
            None if newest_ms is None else rfc3339(newest_ms),
            merged.tiles_merged,
            bool(reasons),
            reasons,
            features,
            missing,
            self._architecture,
        )


def feature_rows(
    group: FeatureGroup, ids: Sequence[RequestId], served: Sequence[Served], q_ms: int, architecture: str = "lambda"
) -> list[FeatureRow]:
    """Returns the rows of an answer about features, with the ids in the form of the request."""
    names = group.feature_names
    provenances, features = Provenances(names, q_ms, architecture), features_struct(names)
    return [
        FeatureRow(entity_id, features(*its.merged.values), provenances.of(its)) for entity_id, its in zip(ids, served, strict=True)
    ]


class ServedInput(NamedTuple):
    """One input of a model in an answer.

    Attributes:
        entry: The declared input, with the served version of its group.
        entity_id: The id of the entity.
        served: The features of the entity.
    """

    entry: ModelInput
    entity_id: int | str
    served: Served


def prediction(
    inputs: Sequence[ServedInput],
    request: Mapping[str, Any],
    q_ms: int,
    model: LoadedModel,
    variant: str,
    score: float | None = None,
    architecture: str = "lambda",
) -> Any:
    """Computes the answer of a model, a struct of `serving.encoding.predict_answer`.

    Args:
        inputs: The inputs, in the order of the declaration.
        request: Request column → value.
        q_ms: The time of the request, in ms since 1970.
        model: The model.
        variant: The name of the model's variant.
        score: The declared prediction of a late answer, which replaces the model's prediction; None if the model predicts.
        architecture: The architecture that computed the features, "lambda" or "kappa".

    Raises:
        ValueError: The prediction does not fit the model's objective.
    """
    values, fault = model.input_of(
        [entry for entry, _, _ in inputs], [served.merged.values for _, _, served in inputs], request, q_ms
    )
    [predicted] = model.predict([values]) if score is None else [score]
    reason, lost, others = fault or ("", [()] * len(inputs), ())
    provenances = [
        Provenances(entry.group.feature_names, q_ms, architecture).of(served, reason, its_lost)
        for (entry, _, served), its_lost in zip(inputs, lost, strict=True)
    ]
    keys = {
        key: value
        for entry, entity_id, _ in inputs
        for key, value in zip(entry.keys, entry.group.values_of(entity_id), strict=True)
    }
    used = dict(zip(model.vector.names, values, strict=True))
    info = ModelInfo(model.name, model.version, variant)
    entries = [entry for entry, _, _ in inputs]
    # One input without a prefix has the names of the model's input already.
    whole = provenances[0] if len(inputs) == 1 and not entries[0].prefix else combined(list(zip(entries, provenances, strict=True)))
    whole = with_derived(whole, model.vector, others)
    if len(inputs) == 1:
        return predict_answer(tuple(keys))(*keys.values(), predicted, used, info, whole)
    by_input = {entry.name: its for entry, its in zip(entries, provenances, strict=True)}
    return predict_answer(tuple(keys), True)(*keys.values(), predicted, used, info, whole, by_input)


def with_derived(provenance: Provenance, vector: FeatureVector, others: Sequence[str] = ()) -> Provenance:
    """Returns the provenance of a model's whole input: degraded are also `others`, and each derived feature that reads a degraded feature."""
    degraded = [*provenance.degraded_features, *others]
    return replace(provenance, degraded_features=[*degraded, *vector.derived_from(degraded)]) if degraded else provenance


def combined(provenances: Sequence[tuple[ModelInput, Provenance]]) -> Provenance:
    """Combines the provenances of several inputs: the earliest batch_end, the newest event, the sum of the tiles, and all reasons.

    The combined batch_end is None unless every input has a batch_end. The names of features have the prefixes of the model's inputs.

    Args:
        provenances: The inputs, each with a provenance.
    """
    each = [its for _, its in provenances]
    ends = [its.batch_end for its in each if its.batch_end is not None]
    newest = [its.newest_event for its in each if its.newest_event is not None]
    reasons = dict.fromkeys(reason for its in each for reason in its.degraded_reasons)

    def named(lists: Iterable[tuple[ModelInput, Sequence[str]]]) -> list[str]:
        return list(dict.fromkeys(f"{entry.prefix}{name}" for entry, names in lists for name in names))

    return Provenance(
        as_of=each[0].as_of if each else "",
        # RFC 3339 texts of one form have the order of their times.
        batch_end=min(ends, default=None) if len(ends) == len(each) else None,
        newest_event=max(newest, default=None),
        tiles_merged=sum(its.tiles_merged for its in each),
        degraded=bool(reasons),
        degraded_reasons=list(reasons),
        degraded_features=named((entry, its.degraded_features) for entry, its in provenances),
        missing=named((entry, its.missing) for entry, its in provenances),
        architecture=each[0].architecture if each else "lambda",
    )
