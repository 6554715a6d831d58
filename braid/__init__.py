"""The public names of braid, with which a project declares its sources, features and models.

from braid import Column, EventSource, FeatureGroup, Project, count, total
"""

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

__all__ = [
    "BraidError", "Column", "ColumnType", "DeclarationError", "EventSource", "Feature", "FeatureGroup", "GroupChecks", "Labels",
    "Model", "Objective", "Outcome", "Project", "RequestColumn", "SourceChecks", "TrainingData", "WhenLate", "approx_distinct", "count", "distinct",
    "expression", "last", "last_k", "maximum", "mean", "minimum", "since_last", "stddev", "top_k", "total", "variance",
]  # fmt: skip
