"""Texts and names as DuckDB's SQL writes them."""

from __future__ import annotations


def text_sql(value: str) -> str:
    """A text as a literal."""
    return "'" + value.replace("'", "''") + "'"


def name_sql(value: str) -> str:
    """A column's name."""
    return '"' + value.replace('"', '""') + '"'
