"""Quality: what was served beside what is right, how far the features have moved, how the champion's answers turn out, who wins the experiment."""

import time

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from batch.view import default_batch_end_ms
from features.declaration import FeatureGroup
from features.definitions import GROUPS
from infra.errors import NotReadyError
from monitoring.attribution import Reason
from monitoring.consistency import check_consistency
from monitoring.drift import feature_drift as measure_drift
from monitoring.drift import live_quality as measure_live_quality
from monitoring.experiment import report_experiment
from orchestration.assets.batch import events, views
from orchestration.assets.models import DEFECTS
from orchestration.assets.serving import served_features
from orchestration.deployment import MODEL_GROUP, OWNERS, SETTINGS, SOURCE
from orchestration.plots import intervals, rates

#: Metadata of an asset that calls for a new model: why, or nothing.
RETRAIN = "retrain because"
_TABLE_COLUMNS = ("feature", "cells", "mismatch_rate", "missing_rate", "extra_rate", "smape")


def consistency_asset(group: FeatureGroup) -> dg.AssetsDefinition:
    """The check of what was served of a group."""

    @dg.asset(
        name=f"{group.name}_consistency", deps=[served_features, events], group_name="quality", kinds={"spark"}, owners=OWNERS,
        description="Each served value beside the one that is recomputed from the lake as of its time; a difference has its reason, or is a defect.",
    )  # fmt: skip
    def consistency(spark: LazyPySparkResource) -> dg.MaterializeResult:
        report = check_consistency(spark.spark_session, SETTINGS, group, _known_until_ms(spark))
        table = report.table()
        records = [dg.TableRecord({name: _plain(row[name]) for name in _TABLE_COLUMNS}) for row in table.to_dict("records")]
        examples = [
            f"{one.reason}: {group.entity} {one.entity}, {one.feature}: served {one.served}, right is {one.right}"
            for one in report.examples
        ]
        return dg.MaterializeResult(
            metadata={
                "answers": report.answers, "cells": sum(one.cells for one in report.features), DEFECTS: report.defects,
                **{str(reason): report.count(reason) for reason in Reason}, "features": dg.MetadataValue.table(records) if records else "none",
                "rates": rates(table), "examples": "\n".join(examples) or "none",
            }
        )  # fmt: skip

    return consistency


@dg.asset(deps=[views[MODEL_GROUP.name]], group_name="quality", kinds={"spark", "scipy"}, owners=OWNERS)
def feature_drift(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """How far each feature's values have moved since the champion was trained: Kolmogorov-Smirnov distance, 0 to 1."""
    distances = measure_drift(spark.spark_session, SETTINGS, MODEL_GROUP)
    if distances is None:
        return dg.MaterializeResult(metadata={RETRAIN: "", "reason": "There is no champion, or nothing to compare with."})
    drifted = {name: distance for name, distance in distances.items() if distance > SETTINGS.drift}
    why = ", ".join(f"{name} has drifted by {distance:.2f}" for name, distance in drifted.items())
    return dg.MaterializeResult(metadata={RETRAIN: why, "largest": max(distances.values()), **distances})


@dg.asset(deps=[served_features, events], group_name="quality", kinds={"spark"}, owners=OWNERS)
def live_quality(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """How the champion's answers have turned out, beside its evaluation."""
    found = measure_live_quality(spark.spark_session, SETTINGS, MODEL_GROUP, _known_until_ms(spark))
    if found is None or found.auc is None or found.evaluated_auc is None:
        answers = found.answers if found else 0
        return dg.MaterializeResult(metadata={RETRAIN: "", "answers": answers, "reason": "Too few answers have an outcome yet."})
    dropped = found.evaluated_auc - found.auc
    why = (
        f"the AUC of version {found.version} fell from {found.evaluated_auc:.3f} to {found.auc:.3f}"
        if dropped > SETTINGS.auc_drop
        else ""
    )
    return dg.MaterializeResult(
        metadata={RETRAIN: why, "version": found.version, "answers": found.answers, "auc": found.auc, "auc of its evaluation": found.evaluated_auc}
    )  # fmt: skip


@dg.asset(deps=[served_features, events], group_name="quality", kinds={"spark", "scipy"}, owners=OWNERS)
def experiment_report(spark: LazyPySparkResource) -> dg.MaterializeResult:
    """Who wins the A/B test that runs: the difference between its variants, with an interval, and a verdict in words."""
    experiment = SETTINGS.experiment
    if experiment is None:
        return dg.MaterializeResult(metadata={"verdict": "No experiment runs: set BRAID_EXPERIMENT."})
    try:
        report = report_experiment(spark.spark_session, SETTINGS, MODEL_GROUP, experiment, _known_until_ms(spark))
    except NotReadyError as error:
        return dg.MaterializeResult(metadata={"verdict": str(error)})
    arms = [dg.TableRecord({name: _plain(value) for name, value in vars(arm).items()}) for arm in report.arms]
    split = {} if report.srm_p_value is None else {"sample ratio p value": report.srm_p_value}
    return dg.MaterializeResult(
        metadata={
            "verdict": report.verdict, "experiment": report.name, "arms": dg.MetadataValue.table(arms), "answers without an outcome": report.waiting,
            "differences": intervals(report), **split,
        }
    )  # fmt: skip


def _known_until_ms(spark: LazyPySparkResource) -> int:
    return default_batch_end_ms(spark.spark_session, SETTINGS, SOURCE, time.time_ns() // 1_000_000)


def _plain(value: object) -> float | int | str:
    """A cell of a table as Dagster takes it."""
    return "–" if value is None or value != value else value  # type: ignore[return-value]  # noqa: PLR0124 — a NaN is not itself


consistency = {name: consistency_asset(group) for name, group in GROUPS.items()}
assets = [*consistency.values(), feature_drift, live_quality, experiment_report]
