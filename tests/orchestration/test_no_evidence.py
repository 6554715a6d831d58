"""Where there is nothing to check, a check says so: neither passed nor a defect."""

from typing import Any

import dagster as dg
import pytest

from infra.settings import Settings
from monitoring.attribution import Reason
from orchestration.assets.models import ANSWERS, DEFECTS, consistency_defects
from orchestration.checks.served import no_defects
from orchestration.checks.tables import labels_quality
from orchestration.deployment import Deployment
from orchestration.names import consistency_key, training_set_key
from tests.declarations import project, repurchase, user_features
from tests.payments import card_at_terminal, cards, fraud, terminals


@pytest.mark.parametrize(
    ("checked", "passed", "severity"),
    [
        (None, False, dg.AssetCheckSeverity.WARN),  # never
        ({ANSWERS: 0, DEFECTS: 0}, False, dg.AssetCheckSeverity.WARN),
        ({ANSWERS: 7, DEFECTS: 0}, True, dg.AssetCheckSeverity.ERROR),
        ({ANSWERS: 7, DEFECTS: 2}, False, dg.AssetCheckSeverity.ERROR),
        ({ANSWERS: 7, DEFECTS: 0, str(Reason.UNDECIDED): 3}, False, dg.AssetCheckSeverity.WARN),
        ({ANSWERS: 7, DEFECTS: 2, str(Reason.UNDECIDED): 3}, False, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_a_check_of_nothing_is_no_pass(
    settings: Settings, checked: dict[str, Any] | None, passed: bool, severity: dg.AssetCheckSeverity
) -> None:
    with dg.instance_for_test() as instance:
        if checked is not None:
            instance.report_runless_asset_event(dg.AssetMaterialization(consistency_key(user_features), metadata=checked))
        check = no_defects(user_features)
        job = dg.Definitions(
            asset_checks=[check], jobs=[dg.define_asset_job("checks", dg.AssetSelection.checks(check))], executor=dg.in_process_executor
        ).resolve_job_def("checks")  # fmt: skip
        [result] = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert (result.passed, result.severity) == (passed, severity)
    assert ("No evidence" in str(result.metadata.get("reason"))) is not bool(checked and checked[ANSWERS])


def test_a_training_set_without_rows_blocks_no_other_model(settings: Settings) -> None:
    key = training_set_key(repurchase)
    with dg.instance_for_test() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"reason": "No labels were loaded."}))
        deployment = Deployment(project, settings)
        check = labels_quality(deployment, repurchase)
        job = dg.Definitions(
            asset_checks=[check], jobs=[dg.define_asset_job("checks", dg.AssetSelection.checks(check))], executor=dg.in_process_executor,
            resources={"spark": deployment.spark_resource},
        ).resolve_job_def("checks")  # fmt: skip
        results = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert {result.check_name: (result.passed, result.severity) for result in results} == dict.fromkeys(
        ("labels_whole", "labels_plausible"), (False, dg.AssetCheckSeverity.WARN)
    )
    assert "No labels were loaded" in str(results[0].metadata["reason"])


@pytest.mark.parametrize(
    ("answers", "wrong", "defects"),
    [((7, 7, 7), (0, 0, 0), 0), ((7, 7, 7), (0, 3, 1), 4), ((7, 0, 0), (0, 0, 0), None), ((7, 7, 0), (0, 2, 0), 2)],
    ids=["all are right", "others have defects", "only the first was checked", "a defect, and one was not checked"],
)
def test_the_gate_counts_the_defects_of_every_group_of_a_model(
    answers: tuple[int, ...], wrong: tuple[int, ...], defects: int | None
) -> None:
    with dg.instance_for_test() as instance:
        for group, checked, its in zip((cards, terminals, card_at_terminal), answers, wrong, strict=True):
            event = dg.AssetMaterialization(consistency_key(group), metadata={ANSWERS: checked, DEFECTS: its})
            instance.report_runless_asset_event(event)
        assert consistency_defects(instance, fraud) == defects
