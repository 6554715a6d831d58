"""`braid load`, `replay`, `backfill`: events into the lake and into Kafka, and the batch over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from features.instants import rfc3339, utc_day
from infra.errors import InputError
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

if TYPE_CHECKING:
    from batch.files import ReadOptions
    from batch.load import LoadReport

FileArgument = Annotated[Path, typer.Argument(help="CSV, JSON (also .gz) or Parquet.", show_default=False)]
TimeFormatOption = Annotated[
    str | None,
    typer.Option(
        "--time-format",
        help="Format of times: iso, epoch-s, epoch-ms, epoch-us, epoch-ns, or a format of strptime. Default: decided by the column.",
        show_default=False,
    ),
]
DayFirstOption = Annotated[
    bool | None,
    typer.Option(
        "--day-first/--month-first",
        help="Order of day and month in dates like 01/02/2026. Default: decided by the column.",
        show_default=False,
    ),
]
NullOption = Annotated[
    list[str] | None,
    typer.Option(
        "--null",
        help="Text that stands for a missing value. Repeatable. Default for CSV: NULL, null, Null, (null), (NULL), [NULL], <null>, \\N, NaN, nan, -nan, NaT, None, <NA>, N/A, n/a, #N/A.",
        show_default=False,
    ),
]
DecimalCommaOption = Annotated[bool, typer.Option("--decimal-comma", help="Decimals have a comma, as in 12,50.")]
DelimiterOption = Annotated[
    str | None, typer.Option("--delimiter", help="Delimiter of CSV. Default: that of the header line.", show_default=False)
]


def load(
    context: typer.Context, file: FileArgument, source: SourceOption = None, mapping: MapOption = None, time_zone: ZoneOption = None,
    time_format: TimeFormatOption = None, day_first: DayFirstOption = None, null: NullOption = None,
    decimal_comma: DecimalCommaOption = False, delimiter: DelimiterOption = None,
    check: Annotated[bool, typer.Option("--check", help="Show what would be loaded, and load nothing.")] = False,
    as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Load a file of events into the lake. Rows that do not fit the source go to the table quarantine, with the reason."""
    (project, settings), columns = deployment_of(context, home), mapping_of(mapping)
    declared = project.source(source)
    from batch.files import open_events

    options = read_options(time_zone, time_format, day_first, null, decimal_comma, delimiter)
    # An invalid file is refused before Spark starts.
    with open_events(file, declared, columns, options) as opened:
        from batch.load import load_file
        from infra.gateway import command_session
        from orchestration.progress import Progress
        from orchestration.quiet import quiet

        step = f"{'check' if check else 'load'} of {file}"
        with Progress() as progress, progress.step(step), quiet(settings.home / "logs" / "load.log"):
            spark = command_session(settings, "braid load")
            report = load_file(spark, settings, declared, opened, check)
    if not check:
        from orchestration.execution import reload_definitions

        reload_definitions(settings)
    if as_json:
        print_json(report)
        return
    for line in _sentences(report):
        note(line)


def read_options(
    time_zone: str | None, time_format: str | None, day_first: bool | None, null: list[str] | None, decimal_comma: bool,
    delimiter: str | None,
) -> ReadOptions:  # fmt: skip
    """How a file is read, by the options of a command.

    Raises:
        InputError: The delimiter is not one character.
    """
    from batch.files import ReadOptions

    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1:
            raise InputError(f"The delimiter {delimiter!r} is not one character.", "Use a single character, such as ';', or 'tab'.")
    return ReadOptions(time_zone, time_format, day_first, tuple(null) if null else None, decimal_comma, delimiter)


def _sentences(report: LoadReport) -> Iterator[str]:
    """Yields the report on a load or a check as lines of text."""
    if report.checked:
        yield f"{report.dialect}; nothing was loaded."
        for column in report.columns:
            missing = f"; {column.nulls:,} texts stand for a missing value" if column.nulls else ""
            yield f"  {column.column} = {column.source}: {column.as_what}{f' ({column.why})' if column.why else ''}{missing}"
        for row in report.sample:
            values = ", ".join(f"{name}={value}" for name, value in row.items() if name[0] != "_" and value is not None)
            yield f"  {row['_row']}: {values or '–'}{' ✗ ' + row['_reason'] if row['_reason'] else ''}"
        yield f"{report.read:,} rows read: {report.loaded:,} fit, duplicates included; {report.quarantined:,} would go to quarantine."
    else:
        duplicates = f"{report.duplicates:,} duplicates, {report.quarantined:,} in quarantine."
        yield f"{report.read:,} rows read: {report.loaded:,} events loaded, {duplicates}"
    for reason, count in report.reasons.items():
        yield f"  {count:,} × {reason}"
    if report.first_event:
        yield f"First event {report.first_event}, last event {report.last_event}."
    for name, types in report.types.items():
        yield f"Most frequent {name}: {', '.join(f'{value} ({count:,})' for value, count in types.items())}."
    if nulls := {column.column: column.nulls for column in report.columns if column.nulls and not report.checked}:
        yield f"Texts that stand for a missing value: {', '.join(f'{absent:,} in {name}' for name, absent in nulls.items())} (set by --null)."
    if any("is not an RFC 3339 time" in reason for reason in report.reasons):
        yield "Use --time-format to read times of another format; docs/loading.md has the rules."


def replay(
    context: typer.Context, file: FileArgument, source: SourceOption = None, mapping: MapOption = None, time_zone: ZoneOption = None,
    time_format: TimeFormatOption = None, day_first: DayFirstOption = None, null: NullOption = None,
    decimal_comma: DecimalCommaOption = False, delimiter: DelimiterOption = None,
    speed: Annotated[float | None, typer.Option("--speed", min=0.001, help="Event time divided by wall time. Default: as fast as possible.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the last event is in the online store.")] = False,
    as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Send a file of events to Kafka, in the order of their time."""
    from batch.files import open_events
    from orchestration.progress import Progress
    from orchestration.running import require
    from speed.replay import replay as send
    from speed.visible import wait_visible

    (project, settings), columns = deployment_of(context, home), mapping_of(mapping)
    declared = project.source(source)
    options = read_options(time_zone, time_format, day_first, null, decimal_comma, delimiter)
    # An invalid file is refused before the services are checked.
    with open_events(file, declared, columns, options) as opened, Progress() as progress:
        require(settings, "kafka", *(["valkey", "speed"] if wait else []))
        with progress.step(f"replay of {file}") as advance:
            report = send(
                settings,
                declared,
                opened.batches(),
                speedup=speed,
                on_progress=lambda so_far: advance(f"{so_far.sent:,} events sent"),
            )
        if wait:
            with progress.step("wait until all is visible", total=report.sent) as advance:
                wait_visible(
                    settings, project.groups_of(declared), report.end_offsets, on_progress=lambda done, total: advance(to=done)
                )
    if as_json:
        print_json({**asdict(report), "visible": wait})
    else:
        note(
            f"{report.sent:,} events sent in {report.seconds:.1f} s, {report.refused:,} refused"
            + (", all visible." if wait else ".")
        )


def backfill(
    context: typer.Context,
    to: Annotated[str | None, typer.Option("--to", help="batch_end: the batch covers every event before it. Default: the latest time for which the lake is complete.", show_default=False)] = None,
    first: Annotated[str | None, typer.Option("--from", help="First day. Default: the first day that has not been done.", show_default=False)] = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Train a candidate of each model that has enough labels, and promote it if it passes the gate.")] = True,
    source: SourceOption = None,
    model: Annotated[str | None, typer.Option("--model", help="Only this model: its groups, its training set, a candidate, and the gate. Default: all.", show_default=False)] = None,
    as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Bring events, tiles, batch views and online store up to a time, then train the models, by Dagster's jobs.

    In Kappa: take the archive into the events, have the histories made anew from them, then train. Answers are marked as degraded meanwhile.
    """
    project, settings = deployment_of(context, home)
    if settings.kappa and (to is not None or first is not None):
        raise InputError("In Kappa histories are made of all events, so there is no range of days.", "Leave out --to and --from.")
    if model is not None and (source is not None or not train):
        raise InputError("A backfill of a model is one act over all its sources.", "Leave out --source and --no-train, or --model.")
    chosen = None if model is None else project.model(model)
    sources = None if source is None else (project.source(source),)
    to_ms = None if to is None else instant_ms(to)
    first_day = None if first is None else utc_day(instant_ms(first))
    from orchestration.backfill import backfill as run
    from orchestration.backfill import backfill_model, backfill_steps
    from orchestration.progress import Progress
    from orchestration.quiet import quiet

    total = backfill_steps(project, settings, train, sources, chosen)
    with Progress() as progress, progress.step("backfill", total) as advance, quiet(settings.home / "logs" / "backfill.log"):

        def on_asset(name: str, seconds: float | None) -> None:
            advance(name, by=int(seconds is not None))

        if chosen is not None:
            report = backfill_model(project, settings, chosen, to_ms, first_day, on_asset)
        else:
            report = run(project, settings, to_ms, first_day, train, sources, on_asset)
    if as_json:
        print_json({**asdict(report), "batch_end": rfc3339(report.batch_end_ms)})
        return
    for name, entities in report.entities.items():
        what = "have histories from the lake" if settings.kappa else "published"
        note(f"{entities:,} entities of {name} {what} as of {rfc3339(report.batch_end_ms)}.")
    for name in report.without_events:
        note(f"The source {name} has no events yet; its groups were skipped.")
    for name, training in report.models.items():
        note(
            f"{name}: {training.reason}" + (f" Champion: version {training.champion_version}." if training.champion_version else "")
        )
