"""Code that the commands share: settings from `--home`, errors as sentences, JSON on stdout, all other output on stderr, and the parsing of times."""

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

from features.instants import instant_of, now_ms
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
    """The options that stand before the command: the home and the project."""

    home: Path | None
    project: str | None


def settings_of(context: typer.Context, home: Path | None) -> Settings:
    """Loads the settings. The home is `--home` after the command, else `--home` before the command, else BRAID_HOME, else the default."""
    return Settings.load(home or context.obj.home, context.obj.project)


def deployment_of(context: typer.Context, home: Path | None) -> tuple[Project, Settings]:
    """Loads the project and the settings of the deployment."""
    settings = settings_of(context, home)
    return load_project(settings), settings


def errors_as_sentences(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a command: its errors are shown as sentences without a traceback, and the exit status is then 1."""

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
        except Exception as error:  # noqa: BLE001 (an unexpected error is shown as a sentence, too; a log has the traceback)
            log = _write_traceback(error)
            first = str(error).strip().split("\n", 1)[0]
            cause, cure = f"{type(error).__name__}: {first}.", f"The traceback is in {log}; `braid doctor` may show the cause."
        if kwargs.get("as_json"):
            print(json.dumps({"error": cause, "cure": cure}))
        typer.echo(f"braid: {cause} {cure}", err=True)
        raise typer.Exit(1)

    return run


def _write_traceback(error: Exception) -> Path:
    """Writes an error with its traceback to a new log file, and returns the file."""
    with tempfile.NamedTemporaryFile("w", prefix="braid-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    return Path(log.name)


def print_json(value: Any) -> None:
    """Prints a JSON document to stdout."""
    print(json.dumps(value, default=_plain, indent=2))


def note(text: str) -> None:
    """Prints a line for people to stderr."""
    typer.echo(text, err=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def mapping_of(options: list[str] | None, example: str = "--map user_id=CustomerID") -> dict[str, str]:
    """Returns the values of `--map` or another option, such as a=b, as a dictionary.

    Args:
        options: The values; None without any.
        example: The example of the option in the error.

    Raises:
        InputError: A value has no '=', or nothing on one side of it.
    """
    mapping = {}
    for option in options or []:
        name, separator, column = option.partition("=")
        if not separator or not name or not column:
            raise InputError(f"The mapping {option!r} cannot be read.", f"Write {example}.")
        mapping[name.strip()] = column.strip()
    return mapping


def instant_ms(text: str) -> int:
    """Parses an instant, in ms since 1970: RFC 3339 or a date of digits (in UTC if it has no offset), a day, `now`, or milliseconds since 1970.

    Raises:
        InputError: The text has none of these forms.
    """
    if text == "now":
        return now_ms()
    # 202611011130 and 20261101113000 are dates, as in files: as milliseconds they would lie in 1976 and 2612.
    digits = re.fullmatch(r"(?:19|20)\d{10}(\d\d)?", text)
    if digits is None and re.fullmatch(r"\d{12,14}", text):
        return int(text)
    try:
        moment = (
            datetime.strptime(text, "%Y%m%d%H%M%S" if digits[1] else "%Y%m%d%H%M").replace(tzinfo=UTC)
            if digits
            else datetime.fromisoformat(text)
        )
    except ValueError:
        raise InputError(
            f"The time {text!r} cannot be read.", "Write 2026-01-31T12:00:00Z, 2026-01-31, now, or milliseconds since 1970."
        ) from None
    return instant_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
