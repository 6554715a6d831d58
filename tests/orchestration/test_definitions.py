"""What Dagster loads: it loads, and every asset tells what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from features.declaration import FeatureGroup, count
from features.errors import DeclarationError
from infra.settings import Settings
from orchestration.definitions import definitions
from orchestration.names import speed_tiles_key
from tests import payments
from tests.declarations import project, user_features


@pytest.fixture(scope="module")
def defs(settings: Settings) -> dg.Definitions:
    return definitions(project, settings)


def test_the_definitions_are_loadable(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_every_asset_has_a_group_an_owner_a_kind_and_a_description(defs: dg.Definitions) -> None:
    specs = list(defs.resolve_all_asset_specs())
    assert {spec.group_name for spec in specs} == {"batch", "speed", "serving", "models", "quality"}
    for spec in specs:
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.description, spec.key


def test_the_graph_leads_from_the_topic_to_the_champion(defs: dg.Definitions) -> None:
    upstream = {
        spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps} for spec in defs.resolve_all_asset_specs()
    }
    way, asset = ["repurchase_champion"], "repurchase_champion"
    while upstream[asset]:
        asset = next(iter(upstream[asset]))
        way.append(asset)
    assert way[::-1] == [
        "user_events_topic", "raw_events", "events", "user_features_tiles", "user_features_view", "repurchase_training_set", "repurchase_candidate",
        "repurchase_champion",
    ]  # fmt: skip


def test_in_kappa_nothing_is_made_of_groups_in_the_lake_and_no_sensor_asks_for_a_batch(settings: Settings) -> None:
    kappa = definitions(project, settings.model_copy(update={"architecture": "kappa"}))
    dg.Definitions.validate_loadable(kappa)
    specs = {spec.key.to_user_string(): spec for spec in kappa.resolve_all_asset_specs()}
    assert not [name for name in specs if name.endswith(("_tiles", "_view")) and not name.endswith("_speed_tiles")]
    assert not [name for name in specs if name.startswith("online_")]
    assert {dep.asset_key.to_user_string() for dep in specs["repurchase_training_set"].deps} == {"events"}
    jobs = {job.name: job for job in kappa.resolve_all_job_defs()}
    assert "publish" not in jobs
    of_source = jobs["features_user_events"].asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in of_source} == {"events"}
    assert {sensor.name for sensor in kappa.sensors or ()} == {"speed_layer", "group_health", "retraining_on_signal_repurchase"}
    of_groups = {
        key.name
        for check in kappa.asset_checks or ()
        for key in check.check_keys
        if key.asset_key == speed_tiles_key(user_features)
    }
    assert of_groups == {"fresh"}, "no batch names the active entities, so there is nothing whose coverage could be checked"


def test_the_job_of_a_model_brings_its_groups_and_no_others_and_trains_it(settings: Settings) -> None:
    apart = FeatureGroup("apart", "terminal_id", payments.payments, (count("payments_2h", window="2h"),))
    of_payments = replace(payments.project, groups=(*payments.project.groups, apart))
    [model] = [model for model in of_payments.models if model.name == "fraud"]
    keys = definitions(of_payments, settings).resolve_job_def("backfill_fraud").asset_layer.selected_asset_keys
    of_groups = {
        f"{prefix}{group}{suffix}"
        for group in ("cards", "terminals", "card_at_terminal")
        for prefix, suffix in (("", "_tiles"), ("", "_view"), ("online_", ""))
    }
    assert {key.to_user_string() for key in keys} == {
        *(source.table for source in model.sources), *of_groups, "fraud_training_set", "fraud_candidate", "fraud_champion",
    }  # fmt: skip


OWN = """
import dagster as dg
from braid import Deployment

broken = 1

def assets(deployment: Deployment):
    @dg.asset(deps=["user_features_view"], automation_condition=dg.AutomationCondition.eager())
    def report() -> None: ...

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["de", "fr"]))
    def countries() -> None: ...

    return [report, countries]

def clashing(deployment: Deployment):
    @dg.asset
    def events() -> None: ...

    return [events]

def failing(deployment: Deployment):
    return [open(deployment.table("no_table"))]

def text(deployment: Deployment):
    return "assets"
"""


def test_a_project_adds_assets_of_its_own_and_a_backfill_has_a_job_for_them(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    defs = definitions(replace(project, assets=f"{tmp_path}/own.py:assets"), settings)
    dg.Definitions.validate_loadable(defs)
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert [dep.asset_key.to_user_string() for dep in specs["report"].deps] == ["user_features_view"]
    selected = defs.resolve_job_def("own_assets").asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in selected} == {"report"}, "a backfill does not choose partitions"
    assert "countries" in specs
    assert "default_automation_condition_sensor" in {sensor.name for sensor in defs.get_repository_def().sensor_defs}


@pytest.mark.parametrize(
    ("assets", "cause"),
    [
        ("own.py", "name no function"),
        ("nowhere.assets:assets", "there is no module nowhere"),
        ("nowhere.py:assets", "file .* does not exist"),
        ("own.py:missing", "has no 'missing'"),
        ("own.py:broken", "has a int under 'broken', not a function"),
        ("own.py:failing", "own.py:failing failed: FileNotFoundError"),
        ("own.py:text", "gave a str among its assets"),
        ("own.py:clashing", "The asset events of .* has the name of an asset of braid"),
    ],
)
def test_assets_that_cannot_be_used_are_refused_in_a_sentence(settings: Settings, tmp_path: Path, assets: str, cause: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(DeclarationError, match=cause) as refused:
        definitions(replace(project, assets=assets), settings.model_copy(update={"project_folder": tmp_path}))
    assert refused.value.cure


def test_dagster_notices_runs_that_die_and_starts_them_again() -> None:
    text = (Path(__file__).parents[2] / "infra" / "dagster.yaml").read_text()
    assert "run_monitoring" in text
    assert "run_retries" in text
