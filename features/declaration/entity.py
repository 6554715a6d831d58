"""The entity of a group: the columns that identify it, and the id that is made of their values.

With one column the id is the value of the column. With several columns the id is a text: the values in the order of the columns, with a
slash between them, such as `17/t9`. In a value `~` becomes `~0` and `/` becomes `~1`, which is the escaping of JSON Pointer (RFC 6901). So
different entities have different ids, and the values can be read back from the id. `id_of` and `id_sql` make the same id.
"""

from __future__ import annotations

from collections.abc import Sequence

from features.errors import DeclarationError
from features.names import twin_of
from features.sources import Column, ColumnType, EventSource

#: The length of the longest text that identifies an entity, in characters. It is bounded, because the text is a part of a key.
MAX_ENTITY_LENGTH = 256
#: The text between the values of an id.
SEPARATOR = "/"


def entity_columns(group: str, names: Sequence[str], source: EventSource) -> tuple[Column, ...]:
    """Returns the columns that identify a group's entity.

    Raises:
        DeclarationError: `names` is empty, a column is named twice, or a column is not a text or integer column of the source.
    """
    if not names:
        raise DeclarationError(f"The entity of {group} has no column.", "Name at least one column of the source.")
    if (twin := twin_of(names)) is not None:
        raise DeclarationError(f"The entity of {group} has the column {twin!r} twice.", "Name each column once.")
    columns = []
    for name in names:
        column = source.column(name)
        if column is None or column.type not in (ColumnType.INT64, ColumnType.STRING):
            known = ", ".join(column.name for column in source.columns)
            raise DeclarationError(
                f"The entity {name!r} of {group} is not a text or integer column.", f"{source.name} has: {known}."
            )
        columns.append(column)
    return tuple(columns)


def escaped(value: int | str) -> str:
    """Escapes a value for the id of an entity of several columns."""
    return str(value).replace("~", "~0").replace(SEPARATOR, "~1")


def id_of(values: Sequence[int | str]) -> int | str:
    """Returns the id of the entity with these values of its columns."""
    return values[0] if len(values) == 1 else SEPARATOR.join(map(escaped, values))


def values_of(entity_id: int | str, types: Sequence[ColumnType]) -> tuple[int | str, ...]:
    """Returns the values of the columns from which `id_of` has made an id.

    Args:
        entity_id: The id.
        types: The types of the columns.

    Raises:
        ValueError: The number of values in the id is not the number of types, or a value is not of its type.
    """
    texts = [entity_id]
    if len(types) > 1:
        texts = [text.replace("~1", SEPARATOR).replace("~0", "~") for text in str(entity_id).split(SEPARATOR)]
    return tuple(int(text) if kind is ColumnType.INT64 else str(text) for text, kind in zip(texts, types, strict=True))


def id_sql(names: Sequence[str]) -> str:
    """Returns a Spark SQL expression for the id, over the columns with these names. It is null if one of the columns is null."""
    if len(names) == 1:
        return f"`{names[0]}`"
    parts = [f"replace(replace(CAST(`{name}` AS STRING), '~', '~0'), '{SEPARATOR}', '~1')" for name in names]
    joined = f" || '{SEPARATOR}' || ".join(parts)
    return f"({joined})"


def has_value_sql(column: Column) -> str:
    """Returns a SQL condition that is true if the value of a column can identify an entity.

    A null, an empty text, and a text longer than `MAX_ENTITY_LENGTH` cannot.
    """
    if column.type is ColumnType.INT64:
        return f"`{column.name}` IS NOT NULL"
    return f"coalesce(length(`{column.name}`), 0) BETWEEN 1 AND {MAX_ENTITY_LENGTH}"


def part_sql(entity_id: str, place: int) -> str:
    """Returns the Spark SQL of the `escaped` value at a place, from 0, in an id of several columns; `entity_id` is the Spark SQL of the id."""
    return f"split_part({entity_id}, '{SEPARATOR}', {place + 1})"


def value_sql(entity_id: str, place: int, count: int, kind: ColumnType) -> str:
    """Returns the Spark SQL of the value at a place, from 0, in an id of `count` columns; `entity_id` is the Spark SQL of the id."""
    if count == 1:
        return f"CAST({entity_id} AS {kind.value})"
    text = f"replace(replace({part_sql(entity_id, place)}, '~1', '{SEPARATOR}'), '~0', '~')"
    return f"CAST({text} AS {kind.value})"
