"""`braid init`: a new project in a new folder, from the templates in `orchestration/cli/new-project`.

Six commands lead from an empty folder to a feature over HTTP that is merged from batch and speed:

    braid init shop && cd shop
    braid up --detach
    braid load history.jsonl
    braid backfill
    braid replay live.jsonl --wait
    braid features 7
"""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import sys
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from features.instants import instant_of, rfc3339
from infra.errors import InputError
from infra.ports import ports_of
from orchestration.cli.console import JsonOption, note, print_json

#: The files of a project, and the template of each.
_FILES = {
    "pyproject.toml": "pyproject.toml", "README.md": "README.md", ".gitignore": "gitignore", "{name}/__init__.py": "__init__.py",
    "{name}/definitions.py": "definitions.py", "tests/test_definitions.py": "test_definitions.py",
}  # fmt: skip
_CUSTOMERS = 9


def init(
    name: Annotated[str, typer.Argument(help="Name of the project, of its folder, and of its Python package.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Make a project in a new folder: definitions with comments, sample events, a README with the next commands, and a test."""
    _check_name(name)
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"The folder {name} exists and is not empty.", "Choose another name, or empty the folder.")
    files = _files(name, ports_of((folder / ".braid").absolute()).serving, datetime.now(UTC))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    if as_json:
        print_json({"project": f"{name}.definitions:project", "folder": folder.absolute(), "files": sorted(files)})
    else:
        note(f"The project {name} is ready. Next: cd {name}, then the commands of its README.md. The first command is")
        note("  braid up --detach")


def _check_name(name: str) -> None:
    """Raises InputError if the name is invalid, or is the name of a module of Python, of braid or of an installed library."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(
            f"The name {name!r} cannot be used for a Python package.", "Use lower-case letters, digits and underscores."
        )
    if name in {"tests", *sys.stdlib_module_names} or importlib.util.find_spec(name) is not None:
        raise InputError(
            f"A Python module of the name {name!r} exists already, and would be imported instead.", "Choose another name."
        )


def _files(name: str, port: int, now: datetime) -> dict[str, str]:
    """Returns path → content of each file of a project. The history ends with a day that ended at least two hours ago."""
    texts = resources.files("orchestration.cli") / "new-project"
    files = {
        path.format(name=name): Template((texts / f"{template}.template").read_text()).substitute(name=name, port=port)
        for path, template in _FILES.items()
    }
    yesterday_end = (now - timedelta(hours=2)).replace(hour=0, minute=0, second=0, microsecond=0)
    history = _events("h", yesterday_end - timedelta(days=30), yesterday_end, count=10 * _CUSTOMERS)
    live = _events("l", now - timedelta(minutes=55), now, count=3 * _CUSTOMERS)
    return {**files, "history.jsonl": history, "live.jsonl": live}


def _events(prefix: str, first: datetime, end: datetime, count: int) -> str:
    """Returns events as JSON lines, evenly spread over [first, end).

    In each round every customer has an event; rounds of orders and rounds of views alternate.
    """
    lines = []
    for number in range(count):
        at = first + (end - first) * number / count
        event = {
            "event_id": f"{prefix}{number}", "event_timestamp": rfc3339(instant_of(at)),
            "customer_id": number % _CUSTOMERS + 1, "event_type": "VIEW" if number // _CUSTOMERS % 2 else "ORDER",
        }  # fmt: skip
        if event["event_type"] == "ORDER":
            event["amount"] = 5 + number % 20 / 2
        lines.append(json.dumps(event))
    return "\n".join(lines) + "\n"
