"""`braid up`, `down`, `status`, `plan`, `doctor`: the deployment's services, and the effect of a changed declaration."""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import HomeOption, JsonOption, deployment_of, note, print_json, settings_of

if TYPE_CHECKING:
    from features.declaration.versions import Change


class Architecture(StrEnum):
    """The values of `--architecture`."""

    LAMBDA = "lambda"
    KAPPA = "kappa"


class EngineName(StrEnum):
    """The values of `--engine`."""

    SPARK = "spark"
    FLINK = "flink"


MARK = {True: "[green]✓[/green]", False: "[red]✗[/red]"}


def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all services are healthy.")] = False,
    architecture: Annotated[
        Architecture | None,
        typer.Option(
            "--architecture",
            help="lambda or kappa; the home remembers it. Default: BRAID_ARCHITECTURE, else that of the last start.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(
            "--engine",
            help="spark or flink, which makes the tiles of the stream; the home remembers it. Default: BRAID_ENGINE, else that of the last start.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Start the services that do not run, and stay until Ctrl-C, which ends them.

    Running services with an older declaration are restarted with the current declaration.
    """
    from infra.embedded import services
    from infra.embedded.programs import service_names
    from infra.project import check_bounds
    from orchestration.architecture import with_architecture, with_engine
    from orchestration.progress import Progress
    from orchestration.reload import load_declarations, readers
    from orchestration.running import until_ended
    from orchestration.topics import topics

    project, settings = deployment_of(context, home)
    check_bounds(settings, project)
    settings = with_engine(with_architecture(settings, architecture), engine)
    if settings.engine == "flink":
        from speed.flink.job_sql import check_translations

        check_translations(project)
    if project.assets is not None:
        from orchestration.own_assets import own_assets

        own_assets(project, settings)  # an error is shown here, and running services keep the older definitions
    with nullcontext() if detach else until_ended(settings):
        ran = readers(settings)
        with Progress() as progress, progress.step("start of the services", total=len(service_names(settings))) as advance:
            services.up(
                settings, topics(project), on_progress=lambda name, step: advance(f"{name} {step}", by=int(step == "healthy"))
            )
        load_declarations(settings, project, ran, on_progress=lambda name, step: note(f"{name}: {step}"))
        if as_json:
            print_json(_status(project, settings))
        else:
            _print_status(project, settings)
        if not detach:
            note("Ctrl-C ends the services.")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            note("Ending the services …")


def down(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """End every process of the deployment."""
    from infra.embedded import services

    settings = settings_of(context, home)
    services.down(settings)
    if as_json:
        print_json({"stopped": True, "home": settings.home})
    else:
        note(f"The services of {settings.home} have ended.")


def status(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show the services with their URLs and health, the lag of the stream, the freshness of each group, and open alerts."""
    project, settings = deployment_of(context, home)
    if as_json:
        print_json(_status(project, settings))
    else:
        _print_status(project, settings)


def plan(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show how the declarations differ from the served versions, and what a backfill would recompute."""
    from dataclasses import asdict as fields

    from orchestration.plan import model_plans
    from orchestration.plan import plan as planned

    project, settings = deployment_of(context, home)
    plans, of_models = planned(project, settings), model_plans(project, settings)
    if as_json:
        groups, models = (
            [{**fields(each), "change": each.change._asdict() if each.change else None, "settled": each.settled} for each in both]
            for both in (plans, of_models)
        )
        print_json({"groups": groups, "models": models})
        return
    for group_plan in plans:
        if group_plan.settled:
            note(f"{group_plan.group}: {group_plan.declared} is served, as of {group_plan.batch_end}; nothing to do.")
            continue
        note(f"{group_plan.group}: {group_plan.served or 'nothing'} → {group_plan.declared}")
        if group_plan.change is None:
            note("  This braid cannot read the served version: answers are degraded until the backfill.")
        else:
            _note_change(group_plan.change)
        if settings.kappa:
            note(
                "  `braid up --detach` restarts the stream, which makes histories of all events, and serves them when it has caught up."
            )
        else:
            note("  `braid up --detach` restarts the stream, which makes the new tiles; `braid backfill` then "
                 f"folds {group_plan.days} days, builds the view of {group_plan.entities or 'all'} entities, publishes it and trains.")  # fmt: skip
        if group_plan.served and group_plan.change is not None:
            note(f"  Until then {group_plan.served} is served as of {group_plan.batch_end}, with new events.")
        if group_plan.not_known_to_model:
            note(
                f"  From then on, until there is a new champion, the model gets defaults for {', '.join(group_plan.not_known_to_model)}."
            )
    for model_plan in of_models:
        if model_plan.settled:
            note(f"{model_plan.model}: version {model_plan.champion} was trained on the declared input; nothing to do.")
            continue
        note(f"{model_plan.model}: {model_plan.trained or 'no champion'} → {model_plan.declared}")
        if model_plan.change:
            _note_change(model_plan.change)
        if model_plan.champion:
            note(
                f"  Until a new champion, version {model_plan.champion} answers, on what it was trained on; `braid train` trains a candidate."
            )


def _note_change(change: Change) -> None:
    for line in [*(f"+ {name}" for name in change.added), *(f"- {name}" for name in change.removed)]:
        note(f"  {line}")
    for name, how in change.altered:
        note(f"  ~ {name}: {how}")


def doctor(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check Python, Java, JARs, disk, memory, ports and services. The exit status is 1 if a check fails."""
    from rich import print as show

    from infra.doctor import doctor as examine
    from orchestration.topics import topics

    project, settings = deployment_of(context, home)
    checks = [*examine(settings, topics(project)), *_watched(project, settings)]
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            show(f"{MARK[check.ok]} {check.name}: {check.detail}" + ("" if check.ok else f" [bold]{check.cure}[/bold]"))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _watched(project: Any, settings: Any) -> list[Any]:
    """Returns the conditions of the watchdog as checks; empty if the online store does not run, which another check reports."""
    from infra.doctor import Check
    from infra.errors import BraidError
    from monitoring.watchdog import guards
    from orchestration.running import runs

    if not runs(settings, "valkey"):
        return []
    try:
        conditions = guards(settings, project)
    except BraidError as error:
        return [Check("watchdog", False, error.cause, error.cure)]
    return [
        Check(condition.key, condition.holds, condition.message, "" if condition.holds else condition.cure)
        for condition in conditions
    ]


def _status(project: Any, settings: Any) -> dict[str, Any]:
    from features.instants import now_ms, rfc3339
    from infra.embedded.health import url
    from infra.embedded.services import status as services_status
    from infra.lake import table_sizes
    from monitoring.alerts import Alerts
    from monitoring.freshness import newest_event_ms
    from store.errors import StoreError
    from store.server import open_store

    services = {service.name: asdict(service) for service in services_status(settings)}
    overview: dict[str, Any] = {
        "home": str(settings.home),
        "architecture": settings.architecture,
        "engine": settings.engine,
        "healthy": all(service["healthy"] for service in services.values()),
        "urls": {"dagster": settings.dagster_url, "serving": settings.serving_url, "mlflow": settings.mlflow_tracking_uri,
                 "kafka": settings.kafka_bootstrap, "redis": url(settings, "valkey"), "data docs": settings.data_docs_url},
        "services": services, "groups": {}, "speed": {}, "lag": None, "lag_seconds": None, "speed_silent_seconds": None, "batch_end": None, "alerts": {},
        "table_bytes": table_sizes(settings),
    }  # fmt: skip
    try:
        store = open_store(settings)
        current_ms = now_ms()
        progress = store.progress()
        for group in project.groups:
            published = store.published(group.name)
            newest_ms = newest_event_ms(store, group)
            overview["groups"][group.name] = {
                "batch_end": published and rfc3339(published.batch_end_ms),
                "published_at": published and rfc3339(published.published_at_ms),
                "entities": published.entities if published else 0,
                "version": published and published.fingerprint,
                "newest_event": rfc3339(newest_ms) if newest_ms else None,
                "age_seconds": (current_ms - newest_ms) / 1_000 if newest_ms else None,
            }
        overview["speed"] = progress
        online = progress.get("online", {})
        overview["lag"], overview["lag_seconds"] = online.get("lag"), online.get("lag_seconds")
        overview["alerts"] = Alerts(settings).open()
        overview["speed_silent_seconds"] = (current_ms - online["written_at_ms"]) / 1_000 if online else None
        overview["batch_end"] = next(iter(overview["groups"].values()))["batch_end"]
    except StoreError:
        pass  # the health of the service valkey shows the reason
    return overview


def _print_status(project: Any, settings: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    overview = _status(project, settings)
    table = Table("service", "", "state", "where", "detail", box=None)
    for name, service in overview["services"].items():
        table.add_row(name, MARK[service["healthy"]], service["state"], service["url"] or "", service["detail"])
    console = Console()
    console.print(table)
    kappa = overview["architecture"] == "kappa"
    console.print(f"architecture: {overview['architecture']}, engine of the stream: {overview['engine']}")
    for name, group in overview["groups"].items():
        console.print(
            f"{name}: {'histories from the lake as of' if kappa else 'batch_end'} {group['batch_end'] or 'none'}, {group['entities']} entities, newest event {group['newest_event'] or 'none'}"
            + (f", lag {overview['lag']} messages, {overview['lag_seconds'] or 0:.1f} s" if overview["lag"] is not None else "")
        )
    if sizes := overview["table_bytes"]:
        console.print(f"lake: {len(sizes)} tables, {sum(sizes.values()) / 2**20:,.1f} MiB")
    for key, alert in overview["alerts"].items():
        console.print(f"[red]{alert['severity']}[/red] {key}: {alert['message']}")
