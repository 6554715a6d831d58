"""What the function for a project's own Dagster assets gets: the places of a deployment's data."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Deployment(Protocol):
    """The places of a deployment's data, as the function that `Project.assets` names gets them."""

    @property
    def home(self) -> Path:
        """The folder of the deployment's state."""

    def table(self, name: str) -> str:
        """The path or URI of a Delta table, such as that of a source's events by the `table` of the source."""
