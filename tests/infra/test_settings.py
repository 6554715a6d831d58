"""Settings and ports: what is set wins, what is not is embedded, and what cannot be used is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from infra.embedded.programs import programs, service_names
from infra.errors import SettingsError
from infra.ports import ports_of
from infra.settings import Settings
from orchestration.architecture import with_architecture, with_engine


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("KAFKA_BOOTSTRAP", "REDIS_URL", "MLFLOW_TRACKING_URI", "LAKE_URI", "BRAID_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_not_set_is_embedded_under_home(tmp_path):
    settings = Settings.load(tmp_path)
    assert settings.lake_uri == str(tmp_path / "lake")
    assert settings.kafka_bootstrap == f"127.0.0.1:{settings.ports.kafka}"
    assert settings.embedded == {"kafka", "valkey", "mlflow"}


def test_what_is_set_leads_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "broker:9092")
    monkeypatch.setenv("LAKE_URI", "s3a://bucket/lake/")
    settings = Settings.load(tmp_path)
    assert settings.table("events") == "s3a://bucket/lake/events"
    assert settings.embedded == {"valkey", "mlflow"}


def test_a_value_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAID_WATERMARK_SECONDS", "soon")
    with pytest.raises(SettingsError, match="BRAID_WATERMARK_SECONDS"):
        Settings.load(tmp_path)


def test_ports_stay_and_differ_between_homes_that_do_not_run(tmp_path):
    first, second = ports_of(tmp_path / "a"), ports_of(tmp_path / "b")
    assert ports_of(tmp_path / "a") == first
    chosen = [*first.model_dump().values(), *second.model_dump().values()]
    assert len(set(chosen)) == len(chosen)


def test_a_port_that_somebody_listens_on_is_not_chosen(tmp_path):
    next_free = ports_of(tmp_path / "a").valkey
    (tmp_path / "a" / "ports.json").unlink()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", next_free))
        assert ports_of(tmp_path / "b").valkey != next_free
    (tmp_path / "b" / "ports.json").unlink()
    assert ports_of(tmp_path / "c").valkey == next_free, "the port of a home that is gone is free again"


@pytest.mark.parametrize("text", ["", "{", json.dumps({"kafka": "many"})])
def test_a_broken_ports_file_is_told(tmp_path, text):
    (tmp_path / "ports.json").write_text(text)
    with pytest.raises(SettingsError, match=r"ports\.json"):
        ports_of(tmp_path)


def test_the_home_of_the_user_is_not_the_home_of_a_deployment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    assert Settings.load().home == tmp_path / ".braid"


def test_a_home_remembers_its_architecture_and_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.delenv("BRAID_ARCHITECTURE", raising=False)
    assert not Settings.load(tmp_path).kappa
    assert with_architecture(Settings.load(tmp_path), "kappa").kappa
    assert Settings.load(tmp_path).kappa
    assert Settings.load(tmp_path).environment()["BRAID_ARCHITECTURE"] == "kappa", "services have what the home has"
    monkeypatch.setenv("BRAID_ARCHITECTURE", "lambda")
    assert not Settings.load(tmp_path).kappa
    assert not with_architecture(Settings.load(tmp_path), None).kappa
    monkeypatch.delenv("BRAID_ARCHITECTURE")
    assert not Settings.load(tmp_path).kappa, "the last start counts"


def test_a_home_remembers_its_engine_and_has_its_services(tmp_path, monkeypatch):
    monkeypatch.delenv("BRAID_ENGINE", raising=False)
    assert Settings.load(tmp_path).engine == "spark"
    assert not [name for name in service_names(Settings.load(tmp_path)) if name.startswith("flink")]
    assert with_engine(Settings.load(tmp_path), "flink").engine == "flink"
    settings = Settings.load(tmp_path)
    assert settings.environment()["BRAID_ENGINE"] == "flink", "services have what the home has"
    assert {"flink-jobmanager", "flink-taskmanager"} <= {*service_names(settings)} & {
        program.name for program in programs(settings)
    }
    assert with_engine(settings, "spark").engine == "spark"
    assert Settings.load(tmp_path).engine == "spark", "the last start counts"


def test_a_home_of_an_older_version_gets_the_ports_that_it_lacks(tmp_path):
    older = {"kafka": 19_092, "valkey": 16_379}
    (tmp_path / "ports.json").write_text(json.dumps(older))
    ports = ports_of(tmp_path)
    assert (ports.kafka, ports.valkey) == (19_092, 16_379)
    assert json.loads((tmp_path / "ports.json").read_text()) == ports.model_dump()
    assert ports_of(tmp_path) == ports


def test_a_process_gets_the_same_environment_whatever_the_order_of_its_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAID_AUTOMATION", '["batch", "late", "retraining"]')
    monkeypatch.setenv("BRAID_CORS_ORIGINS", '["https://a.example", "https://b.example", "https://c.example"]')
    text = f"from infra.settings import Settings; print(sorted(Settings.load({str(tmp_path)!r}).environment().items()))"

    def environment(seed: str) -> str:
        return subprocess.check_output([sys.executable, "-c", text], env={**os.environ, "PYTHONHASHSEED": seed}, text=True)

    # `braid up` compares it with that of the services that run.
    assert len({environment(seed) for seed in "1234"}) == 1
    assert Settings.load(tmp_path).environment()["BRAID_AUTOMATION"] == '["batch", "late", "retraining"]'


def test_the_home_of_a_project_is_the_same_in_each_of_its_folders(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.braid]\nproject = "shop.definitions:project"\n')
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("BRAID_PROJECT", raising=False)
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        monkeypatch.delenv("BRAID_HOME", raising=False)
        assert Settings.load().home == tmp_path / ".braid"
        monkeypatch.setenv("BRAID_HOME", "state")
        assert Settings.load().home == tmp_path / "state"
        monkeypatch.setenv("BRAID_HOME", str(tmp_path / "elsewhere"))
        assert Settings.load().home == tmp_path / "elsewhere"
        assert Settings.load("given").home == folder / "given", "a path on the command line starts at the working directory"
