"""The assets of models: training set → candidate → champion."""

import subprocess

import dagster as dg
import pandas as pd
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import SparkSession

from batch.view import default_batch_end_ms
from features.instants import now_ms
from features.model import Model
from infra.errors import NotReadyError
from infra.settings import Settings
from models.promotion import promote
from models.training import train_models
from models.training_set import build_training_set, training_end_ms
from monitoring.drift import view_versions
from monitoring.logged_training_set import write_logged_training_set
from orchestration.columns import feature_lineage, schema, training_columns
from orchestration.deployment import OWNERS, Deployment
from orchestration.materialized import latest_metadata, published_ends_ms, published_versions
from orchestration.names import (
    SERVED,
    candidate_key,
    champion_key,
    consistency_key,
    events_key,
    logged_training_set_key,
    training_set_key,
)
from orchestration.plots import png

#: Metadata of a candidate: the version of its twin.
TWIN = "twin version"
#: Metadata of a candidate: the table of its training set, and the Delta version of the table.
TRAINED_ON, ROWS_OF = "trained on", "training set version"
#: Metadata of `{group}_consistency`: the number of served values that differ from the recomputed values without a known reason.
DEFECTS = "defects"
#: Metadata of `{group}_consistency`: the number of checked answers. With 0 answers there is no evidence.
ANSWERS = "answers"


def training_set_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """Returns the asset of a model's training set."""
    settings, group = deployment.settings, model.group

    @dg.asset(
        key=training_set_key(model), deps=_training_deps(deployment, model), group_name="models", kinds={"spark", "delta"}, owners=OWNERS,
        metadata=schema(*training_columns(model)),
        description=f"Labels (1: {model.label_text}) and the features at the time of each label, from "
        "earlier events only.",
    )  # fmt: skip
    def training_set(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        session = spark.spark_session
        try:
            end_ms = training_end_ms(session, settings, model, published_ends_ms(context.instance, settings, model, context.run_id))
        except NotReadyError as error:
            return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": error.cause})
        report = build_training_set(session, settings, model, end_ms)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.rows, **({} if report.positives is None else {"positives": report.positives}), "train": report.train, "evaluation": report.evaluation,
                "delta_version": report.delta_version, **feature_lineage(group, events_key(group.source)),
            }
        )  # fmt: skip

    return training_set


def outcome_keys(model: Model) -> list[dg.AssetKey]:
    """Returns the keys of the events tables that may contain the outcomes of served answers."""
    return [
        events_key(source)
        for source in dict.fromkeys([model.group.source, *([model.outcome_source] if model.outcome_source else [])])
    ]


def outcomes_known_until_ms(session: SparkSession, settings: Settings, model: Model) -> int:
    """Returns the time, in ms, before which the lake has every event that may be an outcome; now for labels of the owner's own."""
    sources = [] if model.labels else [model.outcome_group.source]
    return min((default_batch_end_ms(session, settings, source, now_ms()) for source in sources), default=now_ms())


def _training_deps(deployment: Deployment, model: Model) -> list[dg.AssetKey]:
    outcome = [events_key(model.outcome_source)] if model.outcome_source else []
    return list(dict.fromkeys([*map(deployment.lake_key, model.groups), *outcome]))


def logged_training_set_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """Returns the asset of a model's training set of served features."""
    settings = deployment.settings

    @dg.asset(
        key=logged_training_set_key(model), deps=[SERVED, *outcome_keys(model)], group_name="models", kinds={"spark", "delta"}, owners=OWNERS,
        metadata=schema(*training_columns(model)),
        description="The features as they were served, with the effects of lag and late events, and the outcome of each entity.",
    )  # fmt: skip
    def training_set(spark: LazyPySparkResource) -> dg.MaterializeResult:
        session = spark.spark_session
        known_until_ms = outcomes_known_until_ms(session, settings, model)
        rows, version = write_logged_training_set(session, settings, model, known_until_ms)
        return dg.MaterializeResult(metadata={"dagster/row_count": rows, "delta_version": version})

    return training_set


class TrainingRows(dg.Config):
    """The choice of the training set: features that are computed from the events, or served features."""

    served: bool = False


def candidate_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """Returns the asset of a model's candidate."""
    settings = deployment.settings

    @dg.asset(
        key=candidate_key(model), deps=[training_set_key(model)], group_name="models", kinds={"mlflow", *(["lightgbm"] if model.training is None else [])}, owners=OWNERS,
        description="A model on merged features, registered as challenger, and its twin on batch features.",
    )  # fmt: skip
    def candidate(context: dg.AssetExecutionContext, config: TrainingRows, spark: LazyPySparkResource) -> dg.MaterializeResult:
        built = latest_metadata(context.instance, logged_training_set_key(model) if config.served else training_set_key(model))
        table = model.logged_training_table if config.served else model.training_table
        if "delta_version" not in built:
            return dg.MaterializeResult(metadata={"trained": False, "reason": built.get("reason", "There is no training set.")})
        version = int(built["delta_version"])
        published = published_versions(context.instance, model.groups, context.run_id)
        views = {} if settings.kappa else view_versions(spark.spark_session, settings, model, published)
        rows = _rows(spark, settings, table, version)
        report = train_models(settings, model, rows, version, _code_version(settings), views, table)
        if report.candidate_version is None:
            return dg.MaterializeResult(metadata={"trained": False, "reason": report.reason})
        assert report.merged is not None
        assert report.batch_only is not None
        return dg.MaterializeResult(
            metadata={
                "trained": True, "version": report.candidate_version, TWIN: report.twin_version, ROWS_OF: version, TRAINED_ON: table,
                "declaration": model.vector.fingerprint, "code": _code_version(settings) or "not in git",
                "objective": str(model.objective),
                **{f"{metric}_merged": number for metric, number in report.merged.items()},
                **{f"{metric}_batch_only": number for metric, number in report.batch_only.items()},
                **{title: png(image) for title, image in (report.plots or {}).items()},
                "registry": dg.MetadataValue.url(f"{settings.mlflow_tracking_uri}/#/models/{model.name}/versions/{report.candidate_version}"),
            }
        )  # fmt: skip

    return candidate


def champion_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """Returns the asset of a model's champion."""
    settings = deployment.settings

    @dg.asset(
        key=champion_key(model), deps=[candidate_key(model)], group_name="models", kinds={"mlflow"}, owners=OWNERS,
        description="The model that serving uses: the candidate, fitted again on all rows, if it passes the gate.",
    )  # fmt: skip
    def champion(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        candidate = latest_metadata(context.instance, candidate_key(model))
        if "version" not in candidate:
            return dg.MaterializeResult(metadata={"promoted": False, "reason": "There is no candidate."})
        rows = _rows(spark, settings, candidate[TRAINED_ON], int(candidate[ROWS_OF]))
        defects = consistency_defects(context.instance, model)
        report = promote(settings, model, str(candidate["version"]), rows, defects, str(candidate[TWIN]))
        slices = [dg.TableRecord({"where": part.name, "rows": part.rows, "candidate": part.candidate, "champion": part.champion})
                  for part in report.slices]  # fmt: skip
        return dg.MaterializeResult(
            metadata={
                "promoted": report.promoted, "proven": report.proven, "reason": report.reason, "champion_version": report.champion_version,
                "ms per prediction": report.predict_ms or 0.0, **({f"{report.slices[0].criterion.words} by slice": dg.MetadataValue.table(slices)} if slices else {}),
            }
        )  # fmt: skip

    return champion


def consistency_defects(instance: dg.DagsterInstance, model: Model) -> int | None:
    """The defects in the last checks of all groups of a model; None where there are none and a group has no checked answer."""
    checks = [latest_metadata(instance, consistency_key(group)) for group in model.groups]
    checked = [its for its in checks if its.get(ANSWERS)]
    defects = sum(int(its[DEFECTS]) for its in checked)
    return defects if defects or len(checked) == len(checks) else None


def _rows(spark: LazyPySparkResource, settings: Settings, table: str, version: int) -> pd.DataFrame:
    return spark.spark_session.read.format("delta").option("versionAsOf", version).load(settings.table(table)).toPandas()


def _code_version(settings: Settings) -> str | None:
    """Returns the git commit of the project; None if the project is not in git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=settings.project_folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def assets_of(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """Returns the assets of all models."""
    return [
        make(deployment, model)
        for model in deployment.project.models
        for make in (
            training_set_asset,
            logged_training_set_asset,
            candidate_asset,
            champion_asset,
        )
    ]
