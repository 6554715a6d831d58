"""The metadata of an asset's latest materialization, and the views that were published last."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from features.declaration import FeatureGroup
from features.instants import parse_rfc3339
from features.model import Model
from infra.settings import Settings
from orchestration.names import online_key, view_key

#: Metadata of `online_{group}` and `{group}_view`: the Delta version of the view that was published, or that was built.
VIEW_VERSION = "view version"
#: Among how many materializations of an asset the one of a run is looked for. Few runs are at work at once.
_MATERIALIZATIONS = 100


def latest_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, Any]:
    """Returns name → value of the metadata of an asset's latest materialization; empty if the asset was never materialized."""
    event = instance.get_latest_materialization_event(asset)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    return {name: value.value for name, value in metadata.items()}


@dataclass(frozen=True)
class PublishedView:
    """The view of a group that was published last: its Delta version and its batch_end, in ms since 1970."""

    version: int
    batch_end_ms: int


def published_views(
    instance: dg.DagsterInstance, groups: Iterable[FeatureGroup], run_id: str | None = None
) -> dict[str, PublishedView]:
    """Returns group → the view that was published last. The latest view of the lake may be one that a blocking check has kept out of the online store.

    Args:
        instance: The Dagster instance.
        groups: The groups.
        run_id: A run; its own views are left out. Such a view may not be published yet, but it has passed its checks when a step that depends on it begins.

    Returns:
        Groups are left out whose view was never published, or only by an earlier version of braid, which did not record the version.
    """
    views = {}
    for group in groups:
        built = instance.get_latest_materialization_event(view_key(group)) if run_id is not None else None
        if built is not None and built.run_id == run_id:
            continue
        noted = latest_metadata(instance, online_key(group))
        if VIEW_VERSION in noted:
            views[group.name] = PublishedView(noted[VIEW_VERSION], parse_rfc3339(noted["batch_end"]))
    return views


def published_ends_ms(instance: dg.DagsterInstance, settings: Settings, model: Model, run_id: str | None = None) -> list[int]:
    """Returns the batch_ends of the published views of a model's groups; empty in Kappa. The other arguments are those of `published_views`."""
    return [] if settings.kappa else [view.batch_end_ms for view in published_views(instance, model.groups, run_id).values()]


def published_versions(instance: dg.DagsterInstance, groups: Iterable[FeatureGroup], run_id: str | None = None) -> dict[str, int]:
    """Returns group → the Delta version of the view that was published last. The arguments are those of `published_views`."""
    return {name: view.version for name, view in published_views(instance, groups, run_id).items()}


def built_version(run: dg.DagsterRun, instance: dg.DagsterInstance, group: FeatureGroup) -> int | None:
    """Returns the Delta version of the view that a run has built, or the failed run that it continues; None if it has built none."""
    runs = {run.run_id, run.parent_run_id, run.root_run_id}
    for record in instance.fetch_materializations(view_key(group), limit=_MATERIALIZATIONS).records:
        materialization = record.asset_materialization
        if record.run_id in runs and materialization:
            version: Any = materialization.metadata.get(VIEW_VERSION)
            return None if version is None else int(version.value)
    return None
