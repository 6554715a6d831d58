"""The public names of braid, with which a project declares its sources, features and models.

from braid import Column, EventSource, FeatureGroup, Project, count, total

`Client` and `AsyncClient` send requests to a running deployment. Their module `braid.client` is imported when one of them is used first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from braid.deployment import Deployment
from features.checks import GroupChecks, SourceChecks
from features.declaration import (
    Feature,
    FeatureGroup,
    approx_distinct,
    count,
    distinct,
    last,
    last_k,
    maximum,
    mean,
    minimum,
    since_last,
    stddev,
    top_k,
    total,
    variance,
)
from features.errors import BraidError, DeclarationError
from features.expressions import expression
from features.model import Labels, Model, Outcome, WhenLate
from features.objective import Objective, TrainingData
from features.project import Project
from features.sources import Column, ColumnType, EventSource
from features.vector import RequestColumn

if TYPE_CHECKING:
    from braid.client import AsyncClient as AsyncClient
    from braid.client import Client as Client

__all__ = [
    "BraidError", "Column", "ColumnType", "DeclarationError", "Deployment", "EventSource", "Feature", "FeatureGroup", "GroupChecks", "Labels",
    "Model", "Objective", "Outcome", "Project", "RequestColumn", "SourceChecks", "TrainingData", "WhenLate", "approx_distinct", "count", "distinct",
    "expression", "last", "last_k", "maximum", "mean", "minimum", "since_last", "stddev", "top_k", "total", "variance",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from braid import client

    return getattr(client, name)
