"""`braid forget`: deletes entities from every table, topic and key."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestration.cli.console import HomeOption, JsonOption, deployment_of, note, print_json


def forget(
    context: typer.Context,
    entity: Annotated[list[str], typer.Option("--entity", help="Entity, as COLUMN=ID, such as user_id=17. Repeatable.", show_default=False)],
    fold: Annotated[bool, typer.Option("--backfill/--no-backfill", help="Compute and publish the days of their events again now. Without it the next batch does.")] = True,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:  # fmt: skip
    """Erase entities from every table, dead-letter topic and key, then search each of these places again.

    The exit status is 1 if data of the entities are left.
    """
    from batch.erasure import entity_of
    from orchestration.forget import forget as erase
    from orchestration.quiet import quiet

    project, settings = deployment_of(context, home)
    entities = tuple(entity_of(project, name) for name in entity)
    with quiet(settings.home / "logs" / "forget.log") as terminal:

        def report_step(asset: str, seconds: float | None) -> None:
            if seconds:
                print(f"{asset}: {seconds:.1f} s", file=terminal, flush=True)

        report = erase(project, settings, entities, fold, report_step)
    if as_json:
        print_json({**asdict(report), "proven": report.proven})
    else:
        for place, count in report.remaining.items():
            note(f"{place}: {report.erased.get(place, 0)} erased, {count} left.")
        if report.days and not report.folded:
            note(
                f"Aggregates of {report.days} days contain their events until the next `braid backfill`; older files do until a `braid forget` after it."
            )
        for sentence in report.unproven:
            note(f"Not proven: {sentence}")
    if not report.proven:
        raise typer.Exit(1)
