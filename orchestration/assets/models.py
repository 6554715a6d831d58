"""The life of a model: training set → candidate → champion."""

import subprocess
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_pyspark import LazyPySparkResource

from batch.view import view_table
from models.promotion import promote
from models.training import train_models
from models.training_set import TABLE, build_training_set
from monitoring.drift import view_version
from orchestration.assets.batch import events, views
from orchestration.columns import feature_lineage, schema, training_columns
from orchestration.deployment import MODEL_GROUP, OWNERS, SETTINGS
from orchestration.materialized import latest_metadata
from orchestration.plots import png

#: Metadata of `candidate_model`: the version of its twin.
TWIN = "twin version"
#: Metadata of `{group}_consistency`: served cells that differ from the right ones, and that nothing explains.
DEFECTS = "defects"


@dg.asset(
    deps=[views[MODEL_GROUP.name]], group_name="models", kinds={"spark", "delta"}, owners=OWNERS, metadata=schema(*training_columns(MODEL_GROUP)),
)  # fmt: skip
def training_set(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """Does the user purchase again within 7 days, with the features as they were at each label: nothing of its future."""
    session = spark.spark_session
    view = session.read.format("delta").load(SETTINGS.table(view_table(MODEL_GROUP))).select("batch_end_ms").first()
    report = build_training_set(session, SETTINGS, MODEL_GROUP, view["batch_end_ms"])
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.rows, "positives": report.positives, "train": report.train, "evaluation": report.evaluation,
            "delta_version": report.delta_version, **feature_lineage(MODEL_GROUP, events.key),
        }
    )  # fmt: skip


@dg.asset(deps=[training_set], group_name="models", kinds={"lightgbm", "mlflow"}, owners=OWNERS)
def candidate_model(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """A LightGBM classifier on the merged features, registered as challenger, and its twin that sees batch features alone."""
    version = int(latest_metadata(context.instance, training_set.key)["delta_version"])
    view = view_version(spark.spark_session, SETTINGS, MODEL_GROUP)
    report = train_models(SETTINGS, MODEL_GROUP, _rows(spark), version, _code_version(), view)
    if report.candidate_version is None:
        return dg.MaterializeResult(metadata={"trained": False, "reason": report.reason})
    assert report.merged is not None
    assert report.batch_only is not None
    return dg.MaterializeResult(
        metadata={
            "trained": True, "version": report.candidate_version, TWIN: report.twin_version, "training set version": version,
            "declaration": MODEL_GROUP.fingerprint, "code": _code_version() or "not in git",
            "auc_merged": report.merged.auc, "auc_batch_only": report.batch_only.auc, "log_loss": report.merged.log_loss,
            "brier": report.merged.brier, "average_precision": report.merged.average_precision,
            **{title: png(image) for title, image in (report.plots or {}).items()},
            "registry": dg.MetadataValue.url(f"{SETTINGS.mlflow_tracking_uri}/#/models/{SETTINGS.model_name}/versions/{report.candidate_version}"),
        }
    )  # fmt: skip


@dg.asset(deps=[candidate_model], group_name="models", kinds={"mlflow"}, owners=OWNERS)
def champion_model(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
    """The model that answers: the candidate, if it passes the gate."""
    candidate = latest_metadata(context.instance, candidate_model.key)
    if "version" not in candidate:
        return dg.MaterializeResult(metadata={"promoted": False, "reason": "There is no candidate."})
    checked = latest_metadata(context.instance, dg.AssetKey(f"{MODEL_GROUP.name}_consistency"))
    report = promote(
        SETTINGS, MODEL_GROUP, str(candidate["version"]), _rows(spark), int(checked.get(DEFECTS, 0)), str(candidate[TWIN])
    )
    slices = [dg.TableRecord({"where": one.name, "rows": one.rows, "candidate": one.candidate_auc, "champion": one.champion_auc})
              for one in report.slices]  # fmt: skip
    return dg.MaterializeResult(
        metadata={
            "promoted": report.promoted, "reason": report.reason, "champion_version": report.champion_version,
            "ms per prediction": report.predict_ms or 0.0, **({"AUC by slice": dg.MetadataValue.table(slices)} if slices else {}),
        }
    )  # fmt: skip


def _rows(spark: LazyPySparkResource) -> pd.DataFrame:
    return spark.spark_session.read.format("delta").load(SETTINGS.table(TABLE)).toPandas()


def _code_version() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


assets = [training_set, candidate_model, champion_model]
