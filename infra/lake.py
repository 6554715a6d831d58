"""The folders of the lake, read without Spark."""

from __future__ import annotations

from pathlib import Path

from infra.settings import Settings


def table_sizes(settings: Settings) -> dict[str, int] | None:
    """Returns the bytes of each table's files, by table, also of files of older versions; None if the lake is not on this machine."""
    if "://" in settings.lake_uri:
        return None
    root = Path(settings.lake_uri)
    tables = sorted(path.parent for path in root.glob("*/_delta_log"))
    return {table.name: sum(path.stat().st_size for path in table.rglob("*") if path.is_file()) for table in tables}
