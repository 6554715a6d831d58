"""The README says what is there: its commands exist with their options, its files exist, its example of a declaration loads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest
import typer

from orchestration.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].split("braid ", 1)[1].split()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if "$ braid " in line
]


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme_exists_with_its_options(words: list[str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    command = group.commands[words[0]]
    known = {option for parameter in command.params for option in getattr(parameter, "opts", [])}
    assert {word for word in words[1:] if word.startswith("--")} <= known


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^\$ make (\w+)", README, flags=re.MULTILINE))))
def test_a_target_of_the_readme_exists(target: str) -> None:
    assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_declaration_of_the_readme_loads() -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec("from features.declaration import *\nfrom tests.declarations import user_events\n" + code, names)
    assert len(names["user_features"].feature_names) == 7  # type: ignore[attr-defined]
