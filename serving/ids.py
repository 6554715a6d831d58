"""Finds the group that a request names, and converts the ids in requests to the ids of the online store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from features.declaration import FeatureGroup, ModelInput
from features.declaration.entity import SEPARATOR, id_of
from features.sources import ColumnType
from serving.errors import RefusalError

#: An id in a request: a value, or column → value for an entity of several columns.
RequestId = int | str | Mapping[str, int | str]
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = range(-(2**63), 2**63)


def group_of(groups: Mapping[str, FeatureGroup], name: str) -> FeatureGroup:
    """Returns the group that a request names.

    Raises:
        RefusalError: The group is not declared.
    """
    group = groups.get(name)
    if group is None:
        raise RefusalError(404, f"The group {name!r} is not declared.", f"Declared are: {', '.join(groups)}.")
    return group


def keys_of(group: FeatureGroup, ids: Sequence[RequestId]) -> list[int | str]:
    """Converts the ids of a request to the ids of the online store, in the same order.

    A text of digits is accepted for an integer, because some clients cannot send JSON numbers beyond 2^53 exactly.

    Raises:
        RefusalError: An id does not have exactly the columns of the entity, or a value is not of its column's type.
    """
    names = group.entity_names
    if group.is_composite:
        wrong = next((at for at, entity in enumerate(ids) if not isinstance(entity, Mapping) or entity.keys() != set(names)), None)
        if wrong is not None:
            raise RefusalError(
                422,
                f"The id at position {wrong} is not an object of {', '.join(names)}.",
                f"The entity of {group.name} is {group.entity_text}: name a value for each of them and for nothing else.",
            )
        return _ids(group, names, [[entity[name] for entity in ids] for name in names])  # type: ignore[index]
    return _ids(group, names, [ids])


def key_of_text(group: FeatureGroup, entity_id: int | str) -> int | str:
    """The id that a person has written, such as 17/t9 for an entity of two columns, as the group's keys have it. Raises as `keys_of`."""
    if not group.is_composite:
        return keys_of(group, [entity_id])[0]
    try:
        return group.id_of(group.values_of(entity_id))
    except ValueError:
        form = SEPARATOR.join(group.entity_names)
        raise RefusalError(
            422,
            f"The id does not have the form {form}.",
            f"The entity of {group.name} is {_kinds(group)}; in a text ~1 stands for a slash.",
        ) from None


def key_of(entry: ModelInput, values: Sequence[Mapping[str, int | str | None]]) -> list[int | str]:
    """Returns the ids of the entities of a model's input, in the form of the online store.

    Args:
        entry: The input.
        values: For each entity, the fields of a request or a candidate.

    Raises:
        RefusalError: A key is missing, or a value is not of its column's type.
    """
    for key in entry.keys:
        lacks = next((at for at, fields in enumerate(values) if fields.get(key) is None), None)
        if lacks is not None:
            raise RefusalError(
                422, f"The candidate at position {lacks} has no {key}.", "Give it to the candidate or to the whole request."
            )
    return _ids(entry.group, entry.keys, [[fields[key] for fields in values] for key in entry.keys])


def _ids(group: FeatureGroup, names: Sequence[str], columns: Sequence[Sequence[object]]) -> list[int | str]:
    """Returns the ids of entities.

    Args:
        group: The group.
        names: The names of the entity's columns in the request.
        columns: For each column, the values of all entities.
    """
    typed = [
        _typed(group, name, column.type, values) for name, column, values in zip(names, group.entity_columns, columns, strict=True)
    ]
    return typed[0] if len(typed) == 1 else [id_of(values) for values in zip(*typed, strict=True)]


def _typed(group: FeatureGroup, name: str, kind: ColumnType, values: Sequence[object]) -> list[int | str]:
    if set(map(type, values)) == {str if kind is ColumnType.STRING else int}:
        return list(values)  # type: ignore[arg-type]
    typed: list[int | str] = []
    for position, value in enumerate(values):
        if (kind is ColumnType.STRING and isinstance(value, str)) or (kind is ColumnType.INT64 and isinstance(value, int)):
            typed.append(value)
        elif kind is ColumnType.INT64 and isinstance(value, str) and _INTEGER.fullmatch(value) and int(value) in _INT64:
            typed.append(int(value))
        else:
            expected = "a text" if kind is ColumnType.STRING else "an integer"
            where = f"The {name} of the id" if group.is_composite else "The id"
            raise RefusalError(
                422, f"{where} at position {position} is not {expected}.", f"The entity of {group.name} is {_kinds(group)}."
            )
    return typed


def _kinds(group: FeatureGroup) -> str:
    """The columns of a group's entity with their types."""
    return ", ".join(f"{column.name} ({column.type.name.lower()})" for column in group.entity_columns)
