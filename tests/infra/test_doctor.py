"""What `braid doctor` finds: nothing wrong where nothing is, and each thing that is, by its name and with a cure."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from infra import doctor as examination
from infra import java
from infra.doctor import Check, doctor
from infra.embedded import services
from infra.embedded.supervision import Supervisor
from infra.settings import Settings
from tests.waiting import eventually


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings.load(tmp_path / "home")


def wrong(settings: Settings) -> dict[str, Check]:
    checks = {check.name: check for check in doctor(settings) if not check.ok}
    assert all(check.detail and check.cure for check in checks.values())
    return checks


def test_where_nothing_is_wrong_nothing_is_found(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_MEMORY_GB", 0)
    monkeypatch.setattr(examination, "_DISK_GB", 0)
    assert wrong(home) == {}
    names = {check.name for check in doctor(home)}
    assert {"Python", "Java", "disk", "memory", "ports", "services"} <= names


def test_too_little_disk_or_memory_is_found(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_DISK_GB", shutil.disk_usage(home.home).free / 2**30 + 50)
    monkeypatch.setattr(examination, "_MEMORY_GB", psutil.virtual_memory().total / 2**30 + 1)
    checks = wrong(home)
    assert checks.keys() == {"disk", "memory"}
    assert str(home.home) in checks["disk"].detail
    assert "BRAID_BATCH_MEMORY" in checks["memory"].cure


def test_missing_jars_and_another_python_are_found(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    checks = wrong(home.model_copy(update={"cache_dir": tmp_path / "empty"}))
    assert checks.keys() >= {"Python", "JARs of kafka", "JARs of spark"}
    assert "3.10.4" in checks["Python"].detail
    assert "braid up" in checks["JARs of spark"].cure


def test_that_there_is_no_java_is_found(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_candidates", lambda: iter(()))
    assert "OpenJDK 17" in wrong(home)["Java"].cure


def test_a_port_that_another_program_has_is_found(home: Settings) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", home.ports.valkey))
        stranger.listen()
        checks = wrong(home)["ports"]
    assert f"port {home.ports.valkey} of valkey" in checks.detail
    assert "ports.json" in checks.cure


def test_a_service_that_does_not_answer_is_found_by_its_name(home: Settings) -> None:
    try:
        services.up(home, {}, only={"valkey"})
        assert "valkey" not in wrong(home)
        [pid] = [service.pid for service in services.status(home) if service.name == "valkey"]
        os.kill(pid, signal.SIGSTOP)
        try:
            check = eventually(lambda: wrong(home).get("valkey"), 60)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert str(Supervisor(home).log_path("valkey")) in check.cure
        eventually(lambda: "valkey" not in wrong(home), 60)
    finally:
        services.down(home)
