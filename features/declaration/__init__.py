"""The declaration of features and groups. Each declaration is checked when it is made.

    feature     Feature, and the functions that declare a feature: count, total, mean, …
    entity      the columns that identify an entity, and its id
    inputs      the value that an event contributes to a feature, as SQL
    group       FeatureGroup: the features of one kind of entity, compiled; ModelInput: a group as an input of a model
    versions    the stored text of a declaration, and the difference between two versions

An invalid declaration raises `features.errors.DeclarationError`.
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
