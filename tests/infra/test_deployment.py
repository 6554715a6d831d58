"""The files of the deployment: valid by their schemas, bound to loopback, in step with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import pytest
import yaml

from infra.embedded.programs import NAMES
from infra.setup import FITTING, _block
from tests.test_rooms import ALLOWED

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose.yaml"


@pytest.mark.parametrize("file", ["compose.yaml", "compose.cluster.yaml"])
def test_compose_is_valid_by_the_compose_specification(file):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "infra" / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_yaml_files_are_tidy():
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "infra"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_has_every_service_with_a_health_check_on_loopback():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {"dagster-webserver" if name == "dagster" else name for name in NAMES}
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_secured_stack_changes_services_that_there_are_and_names_every_secret():
    secured = yaml.safe_load((ROOT / "infra" / "compose.cluster.yaml").read_text())
    assert set(secured["services"]) < set(yaml.safe_load(COMPOSE.read_text())["services"])
    assert {secret for service in secured["services"].values() for secret in service["secrets"]} == set(secured["secrets"])


def test_compose_and_the_jars_name_the_same_kafka():
    from infra.jars import KAFKA

    version = KAFKA.coordinates[0].rsplit(":", 1)[1]
    assert yaml.safe_load(COMPOSE.read_text())["services"]["kafka"]["image"] == f"apache/kafka:{version}"


def test_the_image_has_every_room():
    lines = (ROOT / "infra" / "Dockerfile").read_text().splitlines()
    assert not [room for room in ALLOWED if f"COPY {room} {room}" not in lines]


def test_dagster_notices_dead_runs_and_starts_them_again():
    instance = yaml.safe_load((ROOT / "infra" / "dagster.yaml").read_text())
    assert instance["run_monitoring"]["enabled"]
    assert instance["run_retries"]["enabled"]
    assert not instance["telemetry"]["enabled"]


def test_make_alone_lists_every_target_with_a_sentence():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for target in targets:
        assert re.search(rf"^  make {target} +\S.*\.$", done.stdout, re.MULTILINE), target


def test_the_lock_names_no_host_and_every_package_has_a_hash():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?://|--index-url|--find-links", text)
    assert all("--hash=sha256:" in _block(name) for name in re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))


def test_setup_and_the_project_want_the_same_python():
    wanted = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert [(3, minor) for minor in range(int(wanted[1]), int(wanted[2]))] == list(FITTING)


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_setup_with_no_python_that_fits_is_one_sentence(monkeypatch, version):
    from infra import setup

    monkeypatch.setattr(setup, "_version", lambda _python: version)
    with pytest.raises(setup.SetupFailedError, match=r"No Python 3\.11, 3\.12 or 3\.13 .* is 3\.1"):
        setup._fitting_python()


def test_the_packages_of_the_environment_are_compiled():
    """Else each process compiles thousands of modules where it cannot write them: half of the CPU time of a command."""
    package = find_spec("great_expectations")  # no process imports all of it
    assert package is not None
    folder = Path(str(package.origin)).parent
    without = [path for path in folder.rglob("*.py") if not Path(cache_from_source(str(path))).exists()]
    assert without == []
