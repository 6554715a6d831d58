"""The documentation agrees with the code: its commands parse, its files and settings exist, its reference pages are up to date."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.reference import FOLDER, PAGES
from infra.policies import Experiment, GroupBounds, UseCase
from infra.settings import Settings
from orchestration.cli import app
from tests.declarations import user_events, user_features
from tests.test_rooms import ALLOWED

ROOT = Path(__file__).parents[1]
# Neither the changelog nor a decision in docs/adr is rewritten: both keep the names of their day.
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "reference").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
GROUP: Any = typer.main.get_command(app)


def commands_in_blocks(text: str) -> list[list[str]]:
    """The words of each command of the console blocks."""
    lines = [
        line
        for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    parts = [part for line in lines if line.startswith("$ ") for part in line[2:].split(" && ")]
    return [shlex.split(part, comments=True) for part in parts]


BLOCK_COMMANDS = sorted(
    {shlex.join(words): (name, words) for name, text in TEXTS.items() for words in commands_in_blocks(text)}.items()
)
INLINE_COMMANDS = sorted(
    {(name, command) for name, text in TEXTS.items() for command in re.findall(r"`braid ([a-z][^`\n]*)`", text)}
)


@pytest.mark.parametrize("words", [words for _, (_, words) in BLOCK_COMMANDS if words[0] == "braid"], ids=" ".join)
def test_a_command_of_a_console_block_parses(words: list[str]) -> None:
    with GROUP.make_context("braid", words[1:]) as context:
        name, command, rest = GROUP.resolve_command(context, [*context._protected_args, *context.args])
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("document", "text"), INLINE_COMMANDS)
def test_a_command_in_a_sentence_exists_with_its_options(document: str, text: str) -> None:
    name, *rest = text.split()
    assert name in GROUP.commands, document
    known = {option for parameter in GROUP.commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known, document


@pytest.mark.parametrize("document", TEXTS)
def test_every_link_and_every_path_leads_to_a_file(document: str) -> None:
    text, folder = TEXTS[document], (ROOT / document).parent
    links = {link.split("#")[0] for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text)} - {""}
    assert not [link for link in links if not (folder / link).exists()]
    rooms = "|".join(path.parent.name for path in ROOT.glob("*/__init__.py"))
    paths = re.findall(rf"\b((?:{rooms}|docs)/[\w./-]*\w\.(?:py|md|yaml|png))\b", text)
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", TEXTS)
def test_every_variable_is_a_setting(document: str) -> None:
    sources = "".join(path.read_text() for room in ("infra", "tests") for path in (ROOT / room).rglob("*.py"))
    named = set(re.findall(r"\b(?:BRAID|KAFKA|REDIS|SPARK|LAKE|MLFLOW)_[A-Z_]*[A-Z]\b", TEXTS[document]))
    assert not [name for name in named if f'"{name.removesuffix("_FILE")}"' not in sources]


def test_every_reason_in_operations_is_given_by_the_code() -> None:
    sources = "".join(path.read_text() for room in ("features", "store") for path in (ROOT / room).rglob("*.py"))
    reasons = re.findall(r"^\| answers are degraded: \"(?:… )?([^\"…]+)", TEXTS["docs/operations.md"], flags=re.MULTILINE)
    assert len(reasons) >= 5
    assert not [reason for reason in reasons if reason.strip() not in sources]


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "Run python -m docs.reference."


@pytest.mark.parametrize("model", [Settings, GroupBounds, UseCase, Experiment])
def test_every_setting_has_a_description_with_its_unit(model: Any) -> None:
    for name, field in model.model_fields.items():
        if not field.exclude:
            unit = next((unit for unit in ("seconds", "hours", "days") if name.endswith(f"_{unit}")), "")
            assert field.description, name
            assert unit in field.description.lower(), name


def test_the_declarations_of_the_tutorial_load() -> None:
    names: dict[str, Any] = {"shop_events": user_events, "customer_features": user_features}
    exec("from braid import *\n" + "\n".join(re.findall(r"```python\n(.*?)```", TEXTS["docs/tutorial.md"], flags=re.DOTALL)), names)
    assert [model.name for model in names["project"].models] == ["reorder"]


@pytest.mark.parametrize("room", ALLOWED)
def test_every_room_is_in_the_architecture(room: str) -> None:
    assert f"\n| `{room}` | " in TEXTS["docs/architecture.md"]


def test_there_are_commands_to_check() -> None:
    assert sum(words[0] == "braid" for _, (_, words) in BLOCK_COMMANDS) >= 15
    assert len(INLINE_COMMANDS) >= 10


def test_a_test_that_a_page_names_exists() -> None:
    for page, text in TEXTS.items():
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page}: {path}::{name}"
