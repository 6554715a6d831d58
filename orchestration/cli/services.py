"""`braid up`, `down`, `status`, `doctor`: the deployment's services."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestration.cli.console import HomeOption, JsonOption, note, print_json, settings_of

MARK = {True: "[green]✓[/green]", False: "[red]✗[/red]"}


def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is healthy.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Start the services that do not run, and stay until Ctrl-C, which ends them."""
    from infra import services
    from orchestration.running import until_ended
    from orchestration.topics import topics

    settings = settings_of(context, home)
    with nullcontext() if detach else until_ended(settings):
        services.up(settings, topics(), on_progress=lambda name, step: note(f"{name}: {step}"))
        if as_json:
            print_json(_status(settings))
        else:
            _print_status(settings)
        if not detach:
            note("Ctrl-C ends the services.")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            note("Ending the services …")


def down(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """End every process of the deployment."""
    from infra import services

    settings = settings_of(context, home)
    services.down(settings)
    if as_json:
        print_json({"stopped": True, "home": settings.home})
    else:
        note(f"The services of {settings.home} have ended.")


def status(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show URLs, health, lag, batch_end and freshness."""
    settings = settings_of(context, home)
    if as_json:
        print_json(_status(settings))
    else:
        _print_status(settings)


def doctor(context: typer.Context, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check what braid stands on; exit status 1 where something is missing."""
    from rich import print as show

    from infra.doctor import doctor as examine

    checks = examine(settings_of(context, home))
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            show(f"{MARK[check.ok]} {check.name}: {check.detail}" + ("" if check.ok else f" [bold]{check.cure}[/bold]"))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _status(settings: Any) -> dict[str, Any]:
    import redis

    from features.definitions import GROUPS
    from infra.redis import PROGRESS_KEY, meta_key, store
    from infra.services import status as services_status
    from serving.contract import rfc3339

    services = {one.name: asdict(one) for one in services_status(settings)}
    found: dict[str, Any] = {
        "home": str(settings.home),
        "healthy": all(one["healthy"] for one in services.values()),
        "urls": {"dagster": settings.dagster_url, "serving": settings.serving_url, "mlflow": settings.mlflow_tracking_uri,
                 "kafka": settings.kafka_bootstrap, "redis": settings.redis_url},
        "services": services, "groups": {}, "speed": {}, "lag": None, "speed_silent_seconds": None, "batch_end": None,
    }  # fmt: skip
    try:
        client = store(settings)
        now_ms = time.time_ns() // 1_000_000
        progress = {name.decode(): json.loads(value) for name, value in client.hgetall(PROGRESS_KEY).items()}
        for name in GROUPS:
            meta = {key.decode(): value.decode() for key, value in client.hgetall(meta_key(name)).items()}
            seen = [int(meta["newest_event_ms"])] if meta.get("newest_event_ms") else []
            online = progress.get(f"online:{name}", {})
            seen += [online["newest_event_ms"]] if online.get("newest_event_ms") else []
            found["groups"][name] = {
                "batch_end": rfc3339(int(meta["batch_end_ms"])) if meta else None,
                "published_at": rfc3339(int(meta["published_at_ms"])) if meta else None,
                "entities": int(meta["entities"]) if meta else 0,
                "newest_event": rfc3339(max(seen)) if seen else None,
                "age_seconds": (now_ms - max(seen)) / 1_000 if seen else None,
            }
        found["speed"] = progress
        online = progress.get("online", {})
        found["lag"] = online.get("lag")
        found["speed_silent_seconds"] = (now_ms - online["written_at_ms"]) / 1_000 if online else None
        found["batch_end"] = next(iter(found["groups"].values()))["batch_end"]
    except redis.RedisError:
        pass  # the services say so
    return found


def _print_status(settings: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    found = _status(settings)
    table = Table("service", "", "state", "where", "detail", box=None)
    for name, one in found["services"].items():
        table.add_row(name, MARK[one["healthy"]], one["state"], one["url"] or "", one["detail"])
    console = Console()
    console.print(table)
    for name, group in found["groups"].items():
        console.print(
            f"{name}: batch_end {group['batch_end'] or 'none'}, {group['entities']} entities, newest event {group['newest_event'] or 'none'}"
            + (f", lag {found['lag']} messages" if found["lag"] is not None else "")
        )
