"""`braid load`, `replay`, `backfill`: events in, and up to date."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestration.cli.console import (
    HomeOption,
    JsonOption,
    MapOption,
    SourceOption,
    ZoneOption,
    deployment_of,
    instant_ms,
    mapping_of,
    note,
    print_json,
)  # fmt: skip

FileArgument = Annotated[Path, typer.Argument(help="CSV, JSON lines (also .gz) or Parquet.", show_default=False)]


def load(
    context: typer.Context, file: FileArgument, source: SourceOption = None, mapping: MapOption = None, time_zone: ZoneOption = "UTC",
    as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Load a file of events into the lake. What does not fit goes to the table quarantine, with the reason."""
    (project, settings), columns = deployment_of(context, home), mapping_of(mapping)
    declared = project.source(source)
    from batch.files import open_events

    with open_events(file, declared, columns, time_zone):
        pass  # a file that cannot be used is refused before Spark starts
    from batch.load import load_events
    from infra.spark import spark_session
    from orchestration.execution import reload_definitions
    from orchestration.quiet import quiet

    note(f"Loading {file} …")
    with quiet(settings.home / "logs" / "load.log"):
        spark = spark_session(settings, "braid load", settings.batch_memory)
        report = load_events(spark, settings, declared, file, columns, time_zone)

    reload_definitions(settings)
    if as_json:
        print_json(report)
        return
    note(
        f"{report.read:,} rows read: {report.loaded:,} events loaded, {report.duplicates:,} duplicates, {report.quarantined:,} in quarantine."
    )
    for reason, count in report.reasons.items():
        note(f"  {count:,} × {reason}")


def replay(
    context: typer.Context, file: FileArgument, source: SourceOption = None, mapping: MapOption = None, time_zone: ZoneOption = "UTC",
    speed: Annotated[float | None, typer.Option("--speed", min=0.001, help="Event time over wall time; default as fast as possible.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the last event is visible in the online store.")] = False,
    as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Send a file of events to Kafka, in the order of their time."""
    from rich.console import Console
    from rich.progress import Progress

    from batch.files import open_events
    from orchestration.running import require
    from speed.replay import replay as send
    from speed.visible import wait_visible

    (project, settings), columns = deployment_of(context, home), mapping_of(mapping)
    declared = project.source(source)
    with open_events(file, declared, columns, time_zone):
        pass  # a file that cannot be used is told before services are asked for
    require(settings, "kafka", *(["valkey", "speed"] if wait else []))
    with (
        Progress(console=Console(stderr=True), transient=True) as bar,
        open_events(file, declared, columns, time_zone) as opened,
    ):
        task = bar.add_task("sending", total=None)
        report = send(
            settings,
            declared,
            opened.batches(),
            speedup=speed,
            on_progress=lambda so_far: bar.update(task, completed=so_far.sent),
        )
        if wait:
            bar.update(task, description="waiting until all is visible")
            wait_visible(settings, project.groups_of(declared), report.end_offsets)
    if as_json:
        print_json({**asdict(report), "visible": wait})
    else:
        note(
            f"{report.sent:,} events sent in {report.seconds:.1f} s, {report.refused:,} refused"
            + (", all visible." if wait else ".")
        )


def backfill(
    context: typer.Context,
    to: Annotated[str | None, typer.Option("--to", help="batch_end: the batch covers everything before. Default: as late as it can vouch for.", show_default=False)] = None,
    first: Annotated[str | None, typer.Option("--from", help="First day to look at; default the earliest.", show_default=False)] = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Train and promote where there are labels enough.")] = True,
    source: SourceOption = None, as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Bring tiles, view and online store up to a time, and train: Dagster's jobs, over all days in one run."""
    from datetime import UTC, datetime

    project, settings = deployment_of(context, home)
    sources = None if source is None else (project.source(source),)
    to_ms = None if to is None else instant_ms(to)
    first_day = None if first is None else datetime.fromtimestamp(instant_ms(first) / 1_000, UTC).date()
    from orchestration.backfill import backfill as run
    from orchestration.quiet import quiet
    from serving.contract import rfc3339

    with quiet(settings.home / "logs" / "backfill.log") as terminal:
        report = run(
            project, settings, to_ms, first_day, train, sources,
            on_asset=lambda name, seconds: print(f"{name}: {seconds:.1f} s", file=terminal, flush=True) if seconds else None,
        )  # fmt: skip
    if as_json:
        print_json({**asdict(report), "batch_end": rfc3339(report.batch_end_ms)})
        return
    for name, entities in report.entities.items():
        note(f"{entities:,} entities of {name} published as of {rfc3339(report.batch_end_ms)}.")
    for name in report.without_events:
        note(f"The source {name} has no events yet; its groups were passed over.")
    for name, model in report.models.items():
        note(f"{name}: {model.reason}" + (f" Champion: version {model.champion_version}." if model.champion_version else ""))
