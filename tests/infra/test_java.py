"""Java: its version is read as every vendor writes it, and a missing one is told with its cure."""

from __future__ import annotations

import pytest

from infra import java
from infra.errors import SetupError


def fake_java(home, output: str):
    binary = home / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{output}\nEND\n")
    binary.chmod(0o755)
    return home


@pytest.mark.parametrize(
    ("output", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "21" 2023-09-19 LTS', 21),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "17.0.1" 2021-10-19', 17),
        ('java version "1.8.0_392"', 1),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_versions(tmp_path, output, major):
    assert java._major(fake_java(tmp_path, output)) == major


def test_java_home_wins_where_it_fits(tmp_path, monkeypatch):
    old = fake_java(tmp_path / "old", 'java version "1.8.0_392"')
    new = fake_java(tmp_path / "new", 'openjdk version "21.0.1"')
    monkeypatch.setattr(java, "_candidates", lambda: iter([old, tmp_path / "none", new]))
    assert java.find_java() == new


def test_without_one_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(java, "_candidates", lambda: iter(()))
    with pytest.raises(SetupError, match=r"openjdk-17-jre-headless"):
        java.find_java()
