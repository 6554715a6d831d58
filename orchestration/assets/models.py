"""The life of a model: training set → candidate → champion."""

import subprocess
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_pyspark import LazyPySparkResource

from batch.promotion import promote
from batch.training import train_models
from batch.training_set import TABLE, build_training_set
from batch.view import view_table
from orchestration.assets.batch import user_features_view
from orchestration.deployment import GROUP, OWNERS, SETTINGS
from orchestration.plots import png


@dg.asset(deps=[user_features_view], group_name="models", kinds={"spark", "delta"}, owners=OWNERS)
def training_set(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """Does the user purchase again within 7 days, with the features as they were at each label: nothing of its future."""
    session = spark.spark_session
    view = session.read.format("delta").load(SETTINGS.table(view_table(GROUP))).select("batch_end_ms").first()
    report = build_training_set(session, SETTINGS, GROUP, view["batch_end_ms"])
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.rows, "positives": report.positives, "train": report.train, "evaluation": report.evaluation,
            "delta_version": report.delta_version,
        }
    )  # fmt: skip


@dg.asset(deps=[training_set], group_name="models", kinds={"lightgbm", "mlflow"}, owners=OWNERS)
def candidate_model(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """A LightGBM classifier on the merged features, registered as challenger, and its twin that sees batch features alone."""
    version = _training_set_version(context)
    report = train_models(SETTINGS, GROUP, _rows(spark), version, _code_version())
    if report.candidate_version is None:
        return dg.MaterializeResult(metadata={"trained": False, "reason": report.reason})
    assert report.merged is not None
    assert report.batch_only is not None
    return dg.MaterializeResult(
        metadata={
            "trained": True, "version": report.candidate_version, "twin version": report.twin_version,
            "auc_merged": report.merged.auc, "auc_batch_only": report.batch_only.auc, "log_loss": report.merged.log_loss,
            "brier": report.merged.brier, "average_precision": report.merged.average_precision,
            **{title: png(image) for title, image in (report.plots or {}).items()},
            "registry": dg.MetadataValue.url(f"{SETTINGS.mlflow_tracking_uri}/#/models/{SETTINGS.model_name}"),
        }
    )  # fmt: skip


@dg.asset(deps=[candidate_model], group_name="models", kinds={"mlflow"}, owners=OWNERS)
def champion_model(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """The model that answers: the candidate, if it is no worse than the present champion on the same later labels."""
    event = context.instance.get_latest_materialization_event(candidate_model.key)
    metadata = event.asset_materialization.metadata if event and event.asset_materialization else {}
    if "version" not in metadata:
        return dg.MaterializeResult(metadata={"promoted": False, "reason": "There is no candidate."})
    report = promote(SETTINGS, GROUP, str(metadata["version"].value), _rows(spark))
    return dg.MaterializeResult(
        metadata={"promoted": report.promoted, "reason": report.reason, "champion_version": report.champion_version}
    )


def _rows(spark: LazyPySparkResource) -> pd.DataFrame:
    return spark.spark_session.read.format("delta").load(SETTINGS.table(TABLE)).toPandas()


def _training_set_version(context: dg.AssetExecutionContext) -> int:
    event = context.instance.get_latest_materialization_event(training_set.key)
    assert event is not None
    assert event.asset_materialization is not None
    return int(event.asset_materialization.metadata["delta_version"].value)  # type: ignore[arg-type]


def _code_version() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


assets = [training_set, candidate_model, champion_model]
