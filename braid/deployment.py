"""The locations of a deployment's data, which the function for a project's own Dagster assets gets as its argument."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Deployment(Protocol):
    """The locations of a deployment's data: the argument of the function that `Project.assets` names."""

    @property
    def home(self) -> Path:
        """The folder of the deployment's state."""

    def table(self, name: str) -> str:
        """Returns the path or URI of a Delta table, such as the events of a source, whose name is the `table` of the source."""
