"""The assets of quality: consistency of served values, drift of features, quality of the champion's answers, and the experiment."""

import dagster as dg
from dagster_pyspark import LazyPySparkResource

from batch.view import default_batch_end_ms
from features.declaration import FeatureGroup
from features.instants import now_ms
from features.model import Model
from features.sources import EventSource
from infra.errors import NotReadyError
from infra.settings import Settings
from monitoring.attribution import Reason
from monitoring.consistency import check_consistency
from monitoring.drift import feature_drift, live_quality
from monitoring.experiment import report_experiment
from orchestration.assets.models import ANSWERS, DEFECTS
from orchestration.deployment import OWNERS, Deployment
from orchestration.names import SERVED, consistency_key, drift_key, events_key, experiment_key, live_quality_key, view_key
from orchestration.plots import intervals, rates

#: Metadata of drift and live quality: the reason for a new model; empty without a reason.
RETRAIN = "retrain because"
_TABLE_COLUMNS = ("feature", "cells", "mismatch_rate", "missing_rate", "extra_rate", "smape")


def consistency_asset(deployment: Deployment, group: FeatureGroup) -> dg.AssetsDefinition:
    """The comparison of a group's served values with recomputed values."""
    settings = deployment.settings

    @dg.asset(
        key=consistency_key(group), deps=[SERVED, events_key(group.source)], group_name="quality", kinds={"spark"}, owners=OWNERS,
        description="Each served value compared with the value that is recomputed from the lake as of its time. A difference has a reason, or is a defect.",
    )  # fmt: skip
    def consistency(spark: LazyPySparkResource) -> dg.MaterializeResult:
        report = check_consistency(spark.spark_session, settings, group, _known_until_ms(spark, settings, group.source))
        table = report.table()
        records = [dg.TableRecord({name: _plain(row[name]) for name in _TABLE_COLUMNS}) for row in table.to_dict("records")]
        examples = [
            f"{difference.reason}: {group.entity_text} {difference.entity}, {difference.feature}: served {difference.served}, right is {difference.right}"
            for difference in report.examples
        ]
        return dg.MaterializeResult(
            metadata={
                ANSWERS: report.answers, "cells": sum(feature.cells for feature in report.features), DEFECTS: report.defects,
                **{str(reason): report.count(reason) for reason in Reason}, "features": dg.MetadataValue.table(records) if records else "none",
                "rates": rates(table), "examples": "\n".join(examples) or "none",
            }
        )  # fmt: skip

    return consistency


def drift_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """The drift of a model's features."""
    settings = deployment.settings

    @dg.asset(
        key=drift_key(model), deps=[view_key(model.group)], group_name="quality", kinds={"spark", "scipy"}, owners=OWNERS,
        description="The distance (Kolmogorov-Smirnov, 0 to 1) between the values of each feature now and when the champion was trained.",
    )  # fmt: skip
    def drift(spark: LazyPySparkResource) -> dg.MaterializeResult:
        distances = feature_drift(spark.spark_session, settings, model)
        if distances is None:
            return dg.MaterializeResult(metadata={RETRAIN: "", "reason": "There is no champion, or no view to compare with."})
        drifted = {name: distance for name, distance in distances.items() if distance > settings.drift}
        why = ", ".join(f"{name} has drifted by {distance:.2f}" for name, distance in drifted.items())
        return dg.MaterializeResult(metadata={RETRAIN: why, "largest": max(distances.values()), **distances})

    return drift


def live_quality_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """The quality of the answers of a model's champion."""
    settings, source = deployment.settings, model.group.source

    @dg.asset(
        key=live_quality_key(model), deps=[SERVED, events_key(source)], group_name="quality", kinds={"spark"}, owners=OWNERS,
        description="The AUC of the champion's answers whose outcome is known, compared with its evaluation.",
    )  # fmt: skip
    def quality(spark: LazyPySparkResource) -> dg.MaterializeResult:
        figures = live_quality(spark.spark_session, settings, model, _known_until_ms(spark, settings, source))
        if figures is None or figures.auc is None or figures.evaluated_auc is None:
            answers = figures.answers if figures else 0
            return dg.MaterializeResult(
                metadata={RETRAIN: "", "answers": answers, "reason": "Too few answers have an outcome yet."}
            )
        dropped = figures.evaluated_auc - figures.auc
        why = (
            f"the AUC of version {figures.version} fell from {figures.evaluated_auc:.3f} to {figures.auc:.3f}"
            if dropped > settings.auc_drop
            else ""
        )
        return dg.MaterializeResult(
            metadata={RETRAIN: why, "version": figures.version, "answers": figures.answers, "auc": figures.auc, "auc of its evaluation": figures.evaluated_auc}
        )  # fmt: skip

    return quality


def experiment_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """The report on the experiment between a model's variants."""
    settings, source = deployment.settings, model.group.source

    @dg.asset(
        key=experiment_key(model), deps=[SERVED, events_key(source)], group_name="quality", kinds={"spark", "scipy"}, owners=OWNERS,
        description="The running A/B test: the differences between its variants, with intervals, and a verdict in words.",
    )  # fmt: skip
    def experiment_report(spark: LazyPySparkResource) -> dg.MaterializeResult:
        experiment = settings.experiment
        if experiment is None:
            return dg.MaterializeResult(metadata={"verdict": "No experiment runs: set BRAID_EXPERIMENT."})
        try:
            report = report_experiment(spark.spark_session, settings, model, experiment, _known_until_ms(spark, settings, source))
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

    return experiment_report


def _known_until_ms(spark: LazyPySparkResource, settings: Settings, source: EventSource) -> int:
    return default_batch_end_ms(spark.spark_session, settings, source, now_ms())


def _plain(value: object) -> float | int | str:
    """A value that Dagster accepts as a cell of a table."""
    return "–" if value is None or value != value else value  # type: ignore[return-value]  # noqa: PLR0124 — a NaN is not itself


def assets_of(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The assets of all groups and models. The experiment is that of the default model."""
    project = deployment.project
    of_models = [make(deployment, model) for model in project.models for make in (drift_asset, live_quality_asset)]
    experiment = [experiment_asset(deployment, project.default_model)] if project.default_model else []
    return [*(consistency_asset(deployment, group) for group in project.groups), *of_models, *experiment]
