"""The names of assets, jobs and sensors, from those of sources, groups and models."""

import dagster as dg

from features.declaration import FeatureGroup
from features.model import Model
from features.sources import EventSource


def topic_key(source: EventSource) -> dg.AssetKey:
    """The Kafka topic of a source."""
    return dg.AssetKey(f"{source.name}_topic")


def archive_key(source: EventSource) -> dg.AssetKey:
    """The raw archive of a source."""
    return dg.AssetKey(source.archive_table)


def events_key(source: EventSource) -> dg.AssetKey:
    """The events of a source."""
    return dg.AssetKey(source.table)


def speed_tiles_key(group: FeatureGroup) -> dg.AssetKey:
    """The open tiles of a group in the online store."""
    return dg.AssetKey(f"{group.name}_speed_tiles")


def realtime_key(group: FeatureGroup) -> dg.AssetKey:
    """The closed speed tiles of a group in Delta."""
    return dg.AssetKey(f"{group.name}_realtime")


def tiles_key(group: FeatureGroup) -> dg.AssetKey:
    """The batch tiles of a group."""
    return dg.AssetKey(f"{group.name}_tiles")


def view_key(group: FeatureGroup) -> dg.AssetKey:
    """The batch view of a group."""
    return dg.AssetKey(f"{group.name}_view")


def online_key(group: FeatureGroup) -> dg.AssetKey:
    """The batch view of a group in the online store."""
    return dg.AssetKey(f"online_{group.name}")


def consistency_key(group: FeatureGroup) -> dg.AssetKey:
    """The comparison of a group's served values with recomputed values."""
    return dg.AssetKey(f"{group.name}_consistency")


SERVED = dg.AssetKey("served_features")


def training_set_key(model: Model) -> dg.AssetKey:
    """The training set of a model."""
    return dg.AssetKey(f"{model.name}_training_set")


def logged_training_set_key(model: Model) -> dg.AssetKey:
    """The training set of a model from served features."""
    return dg.AssetKey(f"{model.name}_logged_training_set")


def candidate_key(model: Model) -> dg.AssetKey:
    """The candidate of a model."""
    return dg.AssetKey(f"{model.name}_candidate")


def champion_key(model: Model) -> dg.AssetKey:
    """The champion of a model."""
    return dg.AssetKey(f"{model.name}_champion")


def drift_key(model: Model) -> dg.AssetKey:
    """The drift of a model's features since its training."""
    return dg.AssetKey(f"{model.name}_drift")


def live_quality_key(model: Model) -> dg.AssetKey:
    """The quality of the answers of a model's champion."""
    return dg.AssetKey(f"{model.name}_live_quality")


def experiment_key(model: Model) -> dg.AssetKey:
    """The report on the experiment between a model's variants."""
    return dg.AssetKey(f"{model.name}_experiment")


def features_job(source: EventSource) -> str:
    """The job from a source's archive to the online store."""
    return f"features_{source.name}"


def model_job(model: Model) -> str:
    """The job from the archives of a model's sources to its champion."""
    return f"backfill_{model.name}"


def training_job(model: Model) -> str:
    """The job from the labels of a model to its champion."""
    return f"training_{model.name}"


def logged_training_job(model: Model) -> str:
    """The job from the served features to a model's champion."""
    return f"training_on_served_{model.name}"


LAKE = dg.AssetKey("lake")

PUBLISH_JOB, QUALITY_JOB, HOUSEKEEPING_JOB, OWN_JOB = "publish", "quality", "housekeeping", "own_assets"
