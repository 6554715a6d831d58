"""The names of assets and jobs, made from the names of sources, groups and models."""

import dagster as dg

from features.declaration import FeatureGroup
from features.model import Model
from features.sources import EventSource


def topic_key(source: EventSource) -> dg.AssetKey:
    """Returns the key of a source's Kafka topic."""
    return dg.AssetKey(f"{source.name}_topic")


def archive_key(source: EventSource) -> dg.AssetKey:
    """Returns the key of a source's raw archive."""
    return dg.AssetKey(source.archive_table)


def events_key(source: EventSource) -> dg.AssetKey:
    """Returns the key of a source's events."""
    return dg.AssetKey(source.table)


def speed_tiles_key(group: FeatureGroup) -> dg.AssetKey:
    """Returns the key of a group's open tiles in the online store."""
    return dg.AssetKey(f"{group.name}_speed_tiles")


def realtime_key(group: FeatureGroup) -> dg.AssetKey:
    """Returns the key of a group's closed speed tiles in Delta."""
    return dg.AssetKey(f"{group.name}_realtime")


def tiles_key(group: FeatureGroup) -> dg.AssetKey:
    """Returns the key of a group's batch tiles."""
    return dg.AssetKey(f"{group.name}_tiles")


def view_key(group: FeatureGroup) -> dg.AssetKey:
    """Returns the key of a group's batch view."""
    return dg.AssetKey(f"{group.name}_view")


def online_key(group: FeatureGroup) -> dg.AssetKey:
    """Returns the key of a group's batch view in the online store."""
    return dg.AssetKey(f"online_{group.name}")


def consistency_key(group: FeatureGroup) -> dg.AssetKey:
    """Returns the key of the comparison of a group's served values with recomputed values."""
    return dg.AssetKey(f"{group.name}_consistency")


SERVED = dg.AssetKey("served_features")


def training_set_key(model: Model) -> dg.AssetKey:
    """Returns the key of a model's training set."""
    return dg.AssetKey(f"{model.name}_training_set")


def logged_training_set_key(model: Model) -> dg.AssetKey:
    """Returns the key of a model's training set from served features."""
    return dg.AssetKey(f"{model.name}_logged_training_set")


def candidate_key(model: Model) -> dg.AssetKey:
    """Returns the key of a model's candidate."""
    return dg.AssetKey(f"{model.name}_candidate")


def champion_key(model: Model) -> dg.AssetKey:
    """Returns the key of a model's champion."""
    return dg.AssetKey(f"{model.name}_champion")


def drift_key(model: Model) -> dg.AssetKey:
    """Returns the key of the drift of a model's features since its training."""
    return dg.AssetKey(f"{model.name}_drift")


def live_quality_key(model: Model) -> dg.AssetKey:
    """Returns the key of the quality of the champion's answers."""
    return dg.AssetKey(f"{model.name}_live_quality")


def experiment_key(model: Model) -> dg.AssetKey:
    """Returns the key of the report on the experiment between a model's variants."""
    return dg.AssetKey(f"{model.name}_experiment")


def features_job(source: EventSource) -> str:
    """Returns the name of the job from a source's archive to the online store."""
    return f"features_{source.name}"


def model_job(model: Model) -> str:
    """Returns the name of the job from the archives of a model's sources to its champion."""
    return f"backfill_{model.name}"


def training_job(model: Model) -> str:
    """Returns the name of the job from the labels of a model to its champion."""
    return f"training_{model.name}"


def logged_training_job(model: Model) -> str:
    """Returns the name of the job from the served features to a model's champion."""
    return f"training_on_served_{model.name}"


LAKE = dg.AssetKey("lake")

PUBLISH_JOB, QUALITY_JOB, HOUSEKEEPING_JOB, OWN_JOB = "publish", "quality", "housekeeping", "own_assets"
