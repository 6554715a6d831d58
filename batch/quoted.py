"""Quotes texts and names for DuckDB's SQL."""

from __future__ import annotations


def text_sql(value: str) -> str:
    """Returns the SQL literal of a text."""
    return "'" + value.replace("'", "''") + "'"


def name_sql(value: str) -> str:
    """Returns the quoted name of a column."""
    return '"' + value.replace('"', '""') + '"'
