"""The declaration: features and groups, checked when they are made.

    feature     Feature, and the functions that make a feature: count, total, mean, …
    entity      the columns that identify an entity, and its id
    inputs      what an event contributes to a feature, as SQL
    group       FeatureGroup: the features of one kind of entity, compiled; ModelInput: a group as the input of a model
    versions    the stored text of a declaration, and the difference between two versions

A wrong declaration raises `features.errors.DeclarationError`.
"""

from features.declaration.entity import MAX_ENTITY_LENGTH
from features.declaration.feature import (
    Feature,
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
from features.declaration.group import FeatureGroup, ModelInput
from features.declaration.inputs import Input, columns_read

__all__ = [
    "MAX_ENTITY_LENGTH", "Feature", "FeatureGroup", "Input", "ModelInput", "approx_distinct", "columns_read", "count", "distinct", "last", "last_k",
    "maximum", "mean", "minimum", "since_last", "stddev", "top_k", "total", "variance",
]  # fmt: skip
