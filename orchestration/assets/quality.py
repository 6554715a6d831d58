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
from models.evaluation import CRITERIA
from monitoring.attribution import Reason
from monitoring.consistency import check_consistency
from monitoring.drift import feature_drift
from monitoring.experiment import Decision, report_experiment
from monitoring.live_quality import live_quality
from orchestration.assets.models import ANSWERS, DEFECTS, outcome_keys, outcomes_known_until_ms
from orchestration.deployment import OWNERS, Deployment
from orchestration.materialized import latest_metadata, published_versions
from orchestration.names import SERVED, consistency_key, drift_key, events_key, experiment_key, live_quality_key, view_key
from orchestration.plots import intervals, rates

#: Metadata of drift and live quality: the reason to train a new model; empty without a reason.
RETRAIN = "retrain because"
#: Metadata of an experiment: the figures of its verdict (`monitoring.experiment.Decision`).
DECISION = "decision"
_TABLE_COLUMNS = ("feature", "cells", "mismatch_rate", "missing_rate", "extra_rate", "smape")


def consistency_asset(deployment: Deployment, group: FeatureGroup) -> dg.AssetsDefinition:
    """Returns the asset that compares a group's served values with recomputed values."""
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
    """Returns the asset that measures the drift of a model's inputs."""
    settings = deployment.settings

    @dg.asset(
        key=drift_key(model), deps=[*map(view_key, model.groups), *([SERVED] if model.request or model.derived else [])], group_name="quality",
        kinds={"spark", "scipy"}, owners=OWNERS,
        description="The distance (Kolmogorov-Smirnov, 0 to 1) between the values of each feature, request column and derived feature now and when "
        "the champion was trained.",
    )  # fmt: skip
    def drift(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        published = published_versions(context.instance, model.groups)
        distances = feature_drift(spark.spark_session, settings, model, published)
        if distances is None:
            return dg.MaterializeResult(metadata={RETRAIN: "", "reason": "There is no champion, or nothing to compare with."})
        drifted = {name: distance for name, distance in distances.items() if distance > settings.drift}
        why = ", ".join(f"{name} has drifted by {distance:.2f}" for name, distance in drifted.items())
        return dg.MaterializeResult(metadata={RETRAIN: why, "largest": max(distances.values()), **distances})

    return drift


def live_quality_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """Returns the asset that measures the quality of the champion's answers."""
    settings = deployment.settings

    @dg.asset(
        key=live_quality_key(model), deps=[SERVED, *outcome_keys(model)], group_name="quality", kinds={"spark"}, owners=OWNERS,
        description="The quality of the champion's answers whose outcome is known, compared with its evaluation.",
    )  # fmt: skip
    def quality(spark: LazyPySparkResource) -> dg.MaterializeResult:
        session = spark.spark_session
        figures = live_quality(session, settings, model, outcomes_known_until_ms(session, settings, model))
        if figures is None or figures.value is None or figures.evaluated is None:
            answers = figures.answers if figures else 0
            return dg.MaterializeResult(
                metadata={RETRAIN: "", "answers": answers, "reason": "Too few answers have an outcome yet."}
            )
        if CRITERIA[model.objective][0].more_is_better:
            fallen, how = figures.evaluated - figures.value > settings.auc_drop, "fell"
        else:
            fallen, how = figures.value > figures.evaluated * (1 + settings.error_rise), "rose"
        why = f"the {figures.metric} of version {figures.version} {how} from {figures.evaluated:.3f} to {figures.value:.3f}"
        metric = figures.metric.lower()
        return dg.MaterializeResult(
            metadata={
                RETRAIN: why if fallen else "", "version": figures.version, "answers": figures.answers,
                metric: figures.value, f"{metric} of its evaluation": figures.evaluated,
            }
        )  # fmt: skip

    return quality


def experiment_asset(deployment: Deployment, model: Model) -> dg.AssetsDefinition:
    """Returns the asset that reports on the experiment between a model's variants."""
    settings = deployment.settings

    @dg.asset(
        key=experiment_key(model), deps=[SERVED, *outcome_keys(model)], group_name="quality", kinds={"spark", "scipy"}, owners=OWNERS,
        description="The running A/B test: the differences between its variants, with intervals, and a verdict in words.",
    )  # fmt: skip
    def experiment_report(context: dg.AssetExecutionContext, spark: LazyPySparkResource) -> dg.MaterializeResult:
        experiment = settings.experiment
        known = latest_metadata(context.instance, experiment_key(model)).get(DECISION)
        decision = {} if known is None else {DECISION: dg.MetadataValue.json(known)}
        if experiment is None:
            return dg.MaterializeResult(metadata={"verdict": "No experiment runs: set BRAID_EXPERIMENT.", **decision})
        try:
            session = spark.spark_session
            until_ms = outcomes_known_until_ms(session, settings, model)
            report = report_experiment(session, settings, model, experiment, until_ms, Decision.read(known, experiment))
        except NotReadyError as error:
            return dg.MaterializeResult(metadata={"verdict": str(error), **decision})
        if report.decision is not None:
            decision = {DECISION: dg.MetadataValue.json(report.decision.write())}
        arms = [dg.TableRecord({name: _plain(value) for name, value in vars(arm).items()}) for arm in report.arms]
        split = {} if report.srm_p_value is None else {"sample ratio p value": report.srm_p_value}
        return dg.MaterializeResult(
            metadata={
                "verdict": report.verdict, "experiment": report.name, "arms": dg.MetadataValue.table(arms), "answers without an outcome": report.waiting,
                "differences": intervals(report), **split, **decision,
            }
        )  # fmt: skip

    return experiment_report


def _known_until_ms(spark: LazyPySparkResource, settings: Settings, source: EventSource) -> int:
    return default_batch_end_ms(spark.spark_session, settings, source, now_ms())


def _plain(value: object) -> float | int | str:
    """Converts a value to a value that Dagster accepts as a cell of a table."""
    return "–" if value is None or value != value else value  # type: ignore[return-value]  # noqa: PLR0124 — a NaN is not itself


def assets_of(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """Returns the quality assets of all groups and models, and the asset of the experiment."""
    project = deployment.project
    makers = (
        (live_quality_asset,) if deployment.settings.kappa else (drift_asset, live_quality_asset)
    )  # drift compares views, which Kappa does not have
    of_models = [make(deployment, model) for model in project.models for make in makers]
    experiment = [experiment_asset(deployment, model) for model in deployment.experiment_models]
    return [*(consistency_asset(deployment, group) for group in project.groups), *of_models, *experiment]
