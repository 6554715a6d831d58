"""How the command line speaks: settings from `--home`, errors as sentences, JSON on stdout with everything else on stderr, times."""

from __future__ import annotations

import functools
import json
import re
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from features.project import Project
from infra.errors import BraidError, InputError
from infra.project import load_project
from infra.settings import Settings

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the deployment's state. Default: BRAID_HOME, else .braid.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; all other output goes to stderr.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="Column of the source = column of the file, such as user_id=CustomerID, or = a literal in single quotes. Repeatable.",
        show_default=False,
    ),
]
ZoneOption = Annotated[
    str | None, typer.Option("--time-zone", help="Time zone of times that have no offset. Default: UTC.", show_default=False)
]


ProjectOption = Annotated[
    str | None, typer.Option("--project", help="Project, as module:attribute. Default: BRAID_PROJECT, else [tool.braid] of pyproject.toml.", show_default=False)
]  # fmt: skip
SourceOption = Annotated[
    str | None, typer.Option("--source", help="Source of the project. Required if the project has several.", show_default=False)
]


@dataclass
class Context:
    """What the options before the command said."""

    home: Path | None
    project: str | None


def settings_of(context: typer.Context, home: Path | None) -> Settings:
    """The settings of the deployment: `--home` after the command, before it, BRAID_HOME, or the default."""
    return Settings.load(home or context.obj.home, context.obj.project)


def deployment_of(context: typer.Context, home: Path | None) -> tuple[Project, Settings]:
    """The project of the deployment, and its settings."""
    settings = settings_of(context, home)
    return load_project(settings), settings


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its errors told in sentences: exit status 1, never a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BraidError as error:
            cause, cure = error.cause, error.cure
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:  # noqa: BLE001 (what nobody foresaw is told in a sentence, too; a log has its trace)
            log = _kept(error)
            first = str(error).strip().split("\n", 1)[0]
            cause, cure = f"{type(error).__name__}: {first}.", f"The whole of it is in {log}; `braid doctor` may know more."
        if kwargs.get("as_json"):
            print(json.dumps({"error": cause, "cure": cure}))
        typer.echo(f"braid: {cause} {cure}", err=True)
        raise typer.Exit(1)

    return run


def _kept(error: Exception) -> Path:
    """Writes an error with its traceback to a log of its own."""
    with tempfile.NamedTemporaryFile("w", prefix="braid-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    return Path(log.name)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, default=_plain, indent=2))


def note(text: str) -> None:
    """A line for people, beside the output."""
    typer.echo(text, err=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def mapping_of(given: list[str] | None) -> dict[str, str]:
    """`--map a=b` as a dictionary.

    Raises:
        InputError: One of them has no '='.
    """
    found = {}
    for one in given or []:
        name, separator, column = one.partition("=")
        if not separator or not name or not column:
            raise InputError(f"The mapping {one!r} cannot be read.", "Write --map user_id=CustomerID.")
        found[name.strip()] = column.strip()
    return found


def instant_ms(text: str) -> int:
    """A time as milliseconds: RFC 3339, without an offset UTC; a day; `now`; or milliseconds since 1970.

    Raises:
        InputError: It is none of these.
    """
    if text == "now":
        return int(datetime.now(UTC).timestamp() * 1_000)
    if re.fullmatch(r"\d{12,14}", text):
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"The time {text!r} cannot be read.", "Write 2026-01-31T12:00:00Z, 2026-01-31, now, or milliseconds since 1970."
        ) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (found - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution * 1_000)
