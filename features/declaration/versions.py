"""Versions of a declaration: writes a group as a text, reads a group from such a text, and compares two versions.

The online store contains the text of the published version, so a process with a newer declaration can read and serve the older version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from features import aggregations
from features.aggregations import Aggregation
from features.declaration.feature import Feature
from features.declaration.group import FeatureGroup
from features.errors import DeclarationError
from features.sources import EventSource
from features.windows import Window, duration_text

_AGGREGATIONS: Mapping[str, type[Aggregation]] = {
    aggregation.kind: aggregation
    for aggregation in map(aggregations.__dict__.get, aggregations.__all__)
    if isinstance(aggregation, type) and issubclass(aggregation, Aggregation) and aggregation is not Aggregation
}


def group_text(group: FeatureGroup) -> str:
    """Returns the declaration as JSON."""
    features = [{**vars(feature), "aggregation": {"kind": feature.aggregation.kind, **vars(feature.aggregation)},
                 "window": feature.window and asdict(feature.window)} for feature in group.features]  # fmt: skip
    head = {
        "name": group.name,
        "entity": group.entity,
        "source": group.source.name,
        "description": group.description,
        "buffer": group.buffer,
    }
    return json.dumps({**head, "fingerprint": group.fingerprint, "features": features}, sort_keys=True)


def group_of_text(text: str | bytes, source: EventSource) -> FeatureGroup:
    """Reads a declaration that `group_text` has written.

    Args:
        text: The JSON.
        source: The current declaration of the source.

    Raises:
        DeclarationError: The text cannot be read, or its meaning has changed because the source or braid has changed.
    """
    try:
        stored = json.loads(text)
        features = tuple(_feature(feature) for feature in stored["features"])
        group = FeatureGroup(stored["name"], stored["entity"], source, features, stored["description"], stored["buffer"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeclarationError(
            f"The stored declaration cannot be read: {error}.", "Run `braid backfill`, which replaces it."
        ) from None
    if group.fingerprint != stored.get("fingerprint") or source.name != stored.get("source"):
        raise DeclarationError(
            f"The stored declaration of {group.name} has another meaning today: {group.fingerprint}, not {stored.get('fingerprint')}.",
            "Run `braid backfill`, which replaces it.",
        )
    return group


def published_group(declared: FeatureGroup, fingerprint: bytes | None, text: bytes | None) -> FeatureGroup:
    """Returns the version of a group whose values the online store serves.

    Args:
        declared: The current declaration.
        fingerprint: The fingerprint of the version that was published last; None before the first publication.
        text: The text of that version, written by `group_text`.

    Returns:
        The published version. `declared` before the first publication, if the text cannot be read, or if the published version has another
        entity, because the ids of its entities are then invalid for `declared`.
    """
    if fingerprint is None or text is None or fingerprint == declared.fingerprint.encode():
        return declared
    try:
        older = group_of_text(text, declared.source)
    except DeclarationError:
        return declared
    return older if older.fingerprint.encode() == fingerprint and older.entity == declared.entity else declared


def same_meaning(group: FeatureGroup, other: FeatureGroup) -> dict[str, int]:
    """Returns the features of `group` that `other` has with the same name and the same values: name → index in `group`."""
    theirs = {feature.name: other.meaning(index) for index, feature in enumerate(other.features)}
    if group.subject != other.subject:
        return {}
    return {feature.name: index for index, feature in enumerate(group.features) if theirs.get(feature.name) == group.meaning(index)}


class Change(NamedTuple):
    """The difference between two versions of a declaration.

    Attributes:
        added: The names that only the new version has.
        removed: The names that only the old version has.
        altered: The names that both versions have with different declarations, each with the difference as a phrase.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)


def change(old: FeatureGroup, new: FeatureGroup) -> Change:
    """Compares an old and a new version of a group."""
    before, after = ({feature.name: index for index, feature in enumerate(group.features)} for group in (old, new))
    same = same_meaning(new, old)
    altered = []
    for name in (name for name in after if name in before):
        was, now = _parts(old, before[name]), _parts(new, after[name])
        different = [part for part in was | now if was.get(part) != now.get(part)]
        if different or name not in same:
            how = ", ".join(f"{part} {was.get(part, 'none')} → {now.get(part, 'none')}" for part in different)
            altered.append((name, how or "the entity, the source, or the type of a column"))
    return Change(
        tuple(name for name in after if name not in before), tuple(name for name in before if name not in after), tuple(altered)
    )


def _parts(group: FeatureGroup, index: int) -> dict[str, Any]:
    feature = group.features[index]
    window = (
        {name: duration_text(ms) for name, ms in (("window", feature.window.size_ms), ("hop", feature.window.hop_ms))}
        if feature.window
        else {}
    )
    return {
        "aggregation": feature.aggregation.kind,
        **vars(feature.aggregation),
        "input": group.inputs[group.input_of[index]].sql,
        **window,
        "default": feature.default,
        "buffer": duration_text(group.buffer_ms),
    }


def _feature(stored: dict[str, Any]) -> Feature:
    parameters = dict(stored["aggregation"])
    aggregation = _AGGREGATIONS[parameters.pop("kind")](**parameters)
    window = stored["window"] and Window(**stored["window"])
    return Feature(**{**stored, "aggregation": aggregation, "window": window})
