"""The lake as a whole: deletes unused tables and files, and reports the sizes of the tables."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from batch.housekeeping import InUse, delete_unused, delta_tables, group_of, vacuum
from batch.view import view_table
from features.project import Project
from infra.lake import table_sizes
from infra.settings import Settings
from models.registry import TABLE_TAG
from orchestration.deployment import OWNERS, Deployment
from orchestration.materialized import published_versions
from orchestration.names import LAKE
from speed.checkpoints import checkpoints
from store.server import reached_store

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def assets_of(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """Returns the asset `lake`."""
    settings, project = deployment.settings, deployment.project

    @dg.asset(
        key=LAKE, deps=list(dict.fromkeys(map(deployment.lake_key, project.groups))), group_name="batch", kinds={"delta"}, owners=OWNERS,
        description="The sizes of all tables, after unused tables and files older than BRAID_KEEP_DAYS have been deleted.",
    )  # fmt: skip
    def lake(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        session, started = spark.spark_session, time.monotonic()
        published = published_versions(context.instance, project.groups)
        in_use = used(settings, project, delta_tables(session, settings, project), published)
        deleted = delete_unused(session, settings, in_use)
        vacuum(session, settings, delta_tables(session, settings, project), in_use)
        sizes = {f"bytes of {name}": size for name, size in (table_sizes(settings) or {}).items()}
        return dg.MaterializeResult(
            metadata={"deleted": ", ".join(deleted) or "nothing", "seconds": round(time.monotonic() - started, 1), **sizes}
        )

    return [lake]


def used(settings: Settings, project: Project, tables: list[str], view_versions: Mapping[str, int] = MappingProxyType({})) -> InUse:
    """Returns the tables, versions and checkpoints that the declarations, the published views, and the models with an alias use.

    Args:
        settings: The settings that name the store and the registry.
        project: The project.
        tables: The names of braid's tables.
        view_versions: Group → the Delta version of its view that was published last.

    Raises:
        ServiceError: The online store does not answer.
        MlflowException: The registry does not answer.
    """
    store = reached_store(settings)
    names = {group.name for group in project.groups} | {name for table in tables if (name := group_of(table))}
    published = [store.published(name) for name in sorted(names)]
    fingerprints = {group.fingerprint for group in project.groups} | {view.fingerprint for view in published if view}
    versions = {view_table(group): {view_versions[group.name]} for group in project.groups if group.name in view_versions}
    for name, tags in _trained(settings):
        fingerprints |= {fingerprint for value in tags.values() for fingerprint in _FINGERPRINT.findall(value)}
        table = tags.get(TABLE_TAG, f"training_set_{name}")
        versions.setdefault(table, set()).add(int(tags.get("training_set_version", -1)))
        views: dict[str, int] = json.loads(tags.get("view_versions", "{}"))
        for group in project.groups:
            if group.name in views:
                versions.setdefault(view_table(group), set()).add(views[group.name])
    return InUse(frozenset(fingerprints), frozenset(checkpoints(store)), versions)


def _trained(settings: Settings) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the model's name and the tags of each registered version that has an alias."""
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    page = client.search_registered_models()
    models = [*page]
    while page.token:
        page = client.search_registered_models(page_token=page.token)
        models += page
    for model in models:
        for version in {*model.aliases.values()}:
            yield model.name, client.get_model_version(model.name, version).tags
