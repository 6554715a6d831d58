"""`braid compare`: the same events through deployments of each architecture and engine."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import InputError
from orchestration.cli.console import HomeOption, JsonOption, note, print_json, settings_of

if TYPE_CHECKING:
    from infra.settings import Settings
    from orchestration.compare.events import Events

#: The variants that are compared: an architecture, and the engine of the stream.
VARIANTS = ("lambda/spark", "kappa/spark", "lambda/flink", "kappa/flink")


def compare(
    context: typer.Context,
    example: Annotated[
        str | None, typer.Argument(help="An example. Default: the project, with the events of the home's lake.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="A variant, such as kappa/flink. Repeatable. Default: all.", show_default=False),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Events per second of the streamed part.")] = 500,
    seconds: Annotated[int, typer.Option("--seconds", min=5, help="Length of the stream.")] = 60,
    days: Annotated[int, typer.Option("--days", min=1, help="Length of the history in days.")] = 60,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="File for a plot of the figures (.svg, .png, .pdf).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Run the same events through a deployment of each architecture and engine, one after the other, and show what each costs.

    Each deployment loads the history, streams the last events, loses its online store, and gets a changed declaration; its answers are compared with
    brute force. The deployments are in the folder `compare` of the home, and are removed. The home's own services should not run
    meanwhile, because they would share the machine.
    """
    import shutil

    from rich.console import Console

    from orchestration.compare.deployment import Compared
    from orchestration.compare.report import plot, table
    from orchestration.progress import Progress

    settings = settings_of(context, home)
    if unknown := set(only or ()) - set(VARIANTS):
        raise InputError(f"There is no variant {min(unknown)!r}.", f"The variants are: {', '.join(VARIANTS)}.")
    if picture is not None and (picture.suffix not in (".svg", ".png", ".pdf") or not picture.absolute().parent.is_dir()):
        raise InputError(f"The plot cannot be written to {picture}.", "Name a .svg, .png or .pdf file in a folder that exists.")
    folder = settings.home / "compare"
    shutil.rmtree(folder, ignore_errors=True)
    variants = [variant for variant in VARIANTS if not only or variant in only]
    try:
        with Progress(remain=True) as progress:
            with progress.step("events"):
                settings, events = _prepared(settings, example, folder, round(rate * seconds), days)
            variants = _runnable(settings, variants)
            lasting = sum(events.streamed.values()) / seconds
            figures = {}
            for variant in variants:
                with progress.step(variant) as advance:
                    deployment = Compared(_settings_of_variant(settings, folder, variant), events, min(rate, lasting), advance)
                    figures[variant] = deployment.figures()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if picture is not None:
        plot(figures, picture)
    if as_json:
        print_json(figures)
    else:
        Console().print(table(figures))


def _prepared(settings: Settings, example: str | None, folder: Path, streamed: int, days: int) -> tuple[Settings, Events]:
    """Prepares the events of the comparison. Returns the settings with the compared project, and the events."""
    from features.instants import now_ms
    from orchestration.compare.declared import project_of
    from orchestration.compare.events import divided, files_of_lake
    from orchestration.demo import example_of

    folder.mkdir(parents=True)
    chosen = None if example is None else example_of(example)
    if chosen is not None:
        settings = settings.model_copy(update={"project": chosen.project})
    project = project_of(settings.project, str(settings.project_folder), changed=False)
    events = files_of_lake(settings, project) if chosen is None else nullcontext(chosen.write(folder / "written", now_ms()))
    with events as files:
        return settings, divided(project, files, folder / "events", streamed, days)


def _runnable(settings: Settings, variants: list[str]) -> list[str]:
    """Returns the variants that can run the project.

    If a variant runs on Flink, Flink is installed here, because the figures must not contain the time of the installation.

    Raises:
        UntranslatableError: All variants are on Flink, which cannot run the project.
    """
    from infra.flink.distribution import distribution
    from orchestration.compare.declared import project_of
    from speed.flink.expressions import UntranslatableError
    from speed.flink.job_sql import check_translations

    others = [variant for variant in variants if not variant.endswith("/flink")]
    if others == variants:
        return variants
    try:
        check_translations(project_of(settings.project, str(settings.project_folder), changed=True))
    except UntranslatableError as error:
        if not others:
            raise
        note(f"The variants on Flink are left out. {error}")
        return others
    distribution(settings)
    return variants


def _settings_of_variant(settings: Settings, folder: Path, variant: str) -> Settings:
    """Creates the home of a variant, and returns its settings."""
    from infra.settings import Settings

    home = folder / variant.replace("/", "-")
    home.mkdir()
    architecture, engine = variant.split("/")
    own = Settings.load(home, settings.project)
    return own.model_copy(update={"project_folder": settings.project_folder, "architecture": architecture, "engine": engine})
