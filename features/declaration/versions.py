"""Versions of a declaration: the text that keeps one, the group that such a text gives back, and what two of them differ by.

The text travels to the online store with what is published, so that a process that has a newer declaration can still read and serve
the older one.
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
    one.kind: one
    for one in map(aggregations.__dict__.get, aggregations.__all__)
    if isinstance(one, type) and issubclass(one, Aggregation) and one is not Aggregation
}


def group_text(group: FeatureGroup) -> str:
    """The declaration as JSON."""
    features = [{**vars(one), "aggregation": {"kind": one.aggregation.kind, **vars(one.aggregation)},
                 "window": one.window and asdict(one.window)} for one in group.features]  # fmt: skip
    said = {
        "name": group.name,
        "entity": group.entity,
        "source": group.source.name,
        "description": group.description,
        "buffer": group.buffer,
    }
    return json.dumps({**said, "fingerprint": group.fingerprint, "features": features}, sort_keys=True)


def group_of_text(text: str | bytes, source: EventSource) -> FeatureGroup:
    """The declaration that `group_text` has written.

    Args:
        text: The JSON.
        source: The source as it is declared now.

    Raises:
        DeclarationError: The text is none, or means something else today: the source, or braid itself, has changed.
    """
    try:
        said = json.loads(text)
        features = tuple(_feature(one) for one in said["features"])
        group = FeatureGroup(said["name"], said["entity"], source, features, said["description"], said["buffer"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeclarationError(f"The stored declaration cannot be read: {error}.", "Backfill, so that it is replaced.") from None
    if group.fingerprint != said.get("fingerprint") or source.name != said.get("source"):
        raise DeclarationError(
            f"The stored declaration of {group.name} means something else today: {group.fingerprint}, not {said.get('fingerprint')}.",
            "Backfill, so that it is replaced.",
        )
    return group


def published_group(declared: FeatureGroup, fingerprint: bytes | None, text: bytes | None) -> FeatureGroup:
    """The version of a group whose values are in the online store.

    Args:
        declared: The declaration now.
        fingerprint: Of the version that was published last; None where nothing was.
        text: What `group_text` wrote of it.

    Returns:
        The declaration now where that is the one, where nothing was published, and where the text gives no declaration back.
    """
    if fingerprint is None or text is None or fingerprint == declared.fingerprint.encode():
        return declared
    try:
        older = group_of_text(text, declared.source)
    except DeclarationError:
        return declared
    return older if older.fingerprint.encode() == fingerprint else declared


def same_meaning(group: FeatureGroup, other: FeatureGroup) -> dict[str, int]:
    """The features of `group` whose values are what `other` would give under the same name, with their indices in `group`."""
    theirs = {one.name: other.meaning(index) for index, one in enumerate(other.features)}
    if group.subject != other.subject:
        return {}
    return {one.name: index for index, one in enumerate(group.features) if theirs.get(one.name) == group.meaning(index)}


class Change(NamedTuple):
    """What a new version of a group changes: names of features that it adds, removes, and means otherwise, each with how."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)


def change(old: FeatureGroup, new: FeatureGroup) -> Change:
    """What `new` changes of `old`."""
    before, after = ({one.name: index for index, one in enumerate(group.features)} for group in (old, new))
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
    one = group.features[index]
    window = (
        {name: duration_text(ms) for name, ms in (("window", one.window.size_ms), ("hop", one.window.hop_ms))} if one.window else {}
    )
    return {
        "aggregation": one.aggregation.kind,
        **vars(one.aggregation),
        "input": group.inputs[group.input_of[index]].sql,
        **window,
        "default": one.default,
        "buffer": duration_text(group.buffer_ms),
    }


def _feature(said: dict[str, Any]) -> Feature:
    parameters = dict(said["aggregation"])
    aggregation = _AGGREGATIONS[parameters.pop("kind")](**parameters)
    window = said["window"] and Window(**said["window"])
    return Feature(**{**said, "aggregation": aggregation, "window": window})
