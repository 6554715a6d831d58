"""`braid features`, `predict`, `consistency`: served values, and their comparison with a recomputation."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from infra.errors import InputError, ServiceError
from orchestration.cli.console import HomeOption, JsonOption, deployment_of, instant_ms, mapping_of, note, print_json
from orchestration.cli.models import ModelOption

#: The exit status of a comparison that had no answer to compare.
_NO_EVIDENCE = 3
GroupOption = Annotated[
    str | None, typer.Option("--group", help="Feature group. Default: the first of the project.", show_default=False)
]
AtOption = Annotated[str | None, typer.Option("--at", help="Time of the features. Default: now.", show_default=False)]


def features(
    context: typer.Context,
    users: Annotated[
        list[str],
        typer.Argument(
            help="Ids of the entities, such as 17; 17/t9 for an entity of two columns.", metavar="IDS", show_default=False
        ),
    ],
    at: AtOption = None,
    group: GroupOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show the features of entities: the merged values, and the batch view and speed tiles from which they are merged."""
    project, settings = deployment_of(context, home)
    declared = project.group(group)
    ids = [declared.id_of(_values(declared, user)) for user in users]
    body: dict[str, Any] = {"group": declared.name, "ids": [declared.request_id(entity_id) for entity_id in ids]}
    if at is not None:
        body["at"] = instant_ms(at)
    rows = _post(settings, "/features", body)["rows"]
    for entity_id, row in zip(ids, rows, strict=True):
        row["parts"] = _parts(settings, declared, entity_id)
    if as_json:
        print_json({"group": declared.name, "rows": rows})
    else:
        _print_rows(rows)


def predict(
    context: typer.Context,
    entity: Annotated[
        str, typer.Argument(help="Id of the entity, such as 17; 17/t9 for an entity of two columns.", show_default=False)
    ],
    request_context: Annotated[
        str, typer.Option("--context", help="JSON object of values from the caller: the request columns.")
    ] = "{}",
    keys: Annotated[
        list[str] | None, typer.Option("--key", help="Id of another input, such as terminal_id=t9. Repeatable.", show_default=False)
    ] = None,
    model: ModelOption = None,
    at: AtOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Get the prediction of a model for an entity."""
    from rich import print as show

    project, settings = deployment_of(context, home)
    declared = project.model(model)
    first = declared.vector.inputs[0]
    more = mapping_of(keys, "--key terminal_id=t9")
    others = {key: kind for key, kind in declared.vector.keys.items() if key not in first.keys}
    if set(more) != set(others):
        needed = ", ".join(f"--key {key}=ID" for key in others) or "none"
        raise InputError(
            f"The model {declared.name} needs the keys of its inputs.",
            f"Besides the id of {' × '.join(first.keys)}, give: {needed}.",
        )
    ids = dict(zip(first.keys, _values(first.group, entity), strict=True))
    ids |= {key: _value(key, kind, more[key]) for key, kind in others.items()}
    try:
        body: dict[str, Any] = {**ids, "context": json.loads(request_context)}
    except ValueError:
        raise InputError(f"The context {request_context!r} is not JSON.", 'Write --context \'{"page": "home"}\'.') from None
    if at is not None:
        body["at"] = instant_ms(at)
    answer = _post(settings, f"/models/{declared.name}/predict", body)
    print_json(answer) if as_json else show(answer)


def consistency(
    context: typer.Context,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Number of entities to compare.")] = 500,
    at: AtOption = None,
    group: GroupOption = None,
    logged: Annotated[
        bool, typer.Option("--logged", help="Check the answers that were logged, by the job `quality`, instead of new answers.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Compare served values with a brute-force computation over all raw events.

    The exit status is 1 if a value differs (with --logged, if a value differs without a known reason), and 3 if there is nothing to compare.
    """
    from infra.gateway import command_session
    from orchestration.catch_up import wait_for_archive
    from orchestration.known_events import export_known_events
    from orchestration.proof import prove, sample_ids
    from orchestration.quiet import quiet
    from store.protocol import published_version
    from store.server import reached_store

    project, settings = deployment_of(context, home)
    if logged:
        _logged_consistency(project, settings, as_json)
        return
    q_ms = instant_ms(at or "now")
    checked = published_version(reached_store(settings), project.group(group))
    with quiet(settings.home / "logs" / "consistency.log"):
        # The stream serves an event some seconds before the archive has it.
        archive = wait_for_archive(settings, checked.source, None)
        spark = command_session(settings, "braid consistency")
        with export_known_events(spark, settings, checked.source) as events:
            report = prove(settings, checked, events, sample_ids(checked, events, sample), q_ms)
    if as_json:
        print_json({**vars(report), "cells_different": report.cells_different, "archive": archive})
    else:
        note(
            f"{report.entities} entities, {report.cells_compared} cells compared, {report.cells_different} differ, {report.degraded} degraded."
        )
        if report.differences:
            note(f"  The archive of the events: {archive}. An event that it lacks differs, too.")
        for difference in report.differences[:10]:
            note(f"  {difference.entity} {difference.feature}: served {difference.served}, right is {difference.expected}")
    if report.differences:
        raise typer.Exit(1)
    if not report.cells_compared:
        raise typer.Exit(_NO_EVIDENCE)


def _logged_consistency(project: Any, settings: Any, as_json: bool) -> None:
    from monitoring.attribution import Reason
    from orchestration.backfill import check_quality, consistency_figures
    from orchestration.quiet import quiet

    with quiet(settings.home / "logs" / "consistency.log"):
        report = check_quality(project, settings)
    groups = consistency_figures(project, report)
    evidence = any(figures["answers"] for figures in groups.values())
    if as_json:
        print_json({"groups": groups, "evidence": evidence})
    else:
        for name, figures in groups.items():
            reasons = ", ".join(f"{figures[str(reason)]} by {reason}" for reason in Reason)
            note(f"{name}: {figures['answers']} answers, {figures['cells']} cells recomputed; differing: {reasons}.")
        if not evidence:
            note("No evidence: no answer was logged. Set BRAID_SERVED_SHARE, such as to 0.01, and start the services again.")
    if any(figures["defects"] for figures in groups.values()):
        raise typer.Exit(1)
    if not evidence:
        raise typer.Exit(_NO_EVIDENCE)


def _values(group: Any, text: str) -> tuple[int | str, ...]:
    """Parses an id from the command line into the values of the columns of a group's entity.

    Raises:
        InputError: The id does not have the form or the types of the columns.
    """
    try:
        values: tuple[int | str, ...] = group.values_of(text)
    except ValueError:
        wrong = f"does not have the form {'/'.join(group.entity_names)}" if group.is_composite else "is not an integer"
        kinds = ", ".join(f"{column.name} ({column.type.name.lower()})" for column in group.entity_columns)
        raise InputError(f"The id {text!r} {wrong}.", f"The entity of {group.name} is {kinds}.") from None
    return values


def _value(key: str, kind: Any, text: str) -> int | str:
    from features.declaration.entity import values_of

    try:
        [value] = values_of(text, [kind])
    except ValueError:
        raise InputError(f"The id {text!r} is not an integer.", f"The key {key} is an integer.") from None
    return value


def _post(settings: Any, path: str, body: dict[str, Any]) -> Any:
    import httpx

    try:
        answer = httpx.post(f"{settings.serving_url}{path}", json=body, headers=settings.serving_headers, timeout=30)
    except httpx.HTTPError as error:
        raise ServiceError(
            f"Serving at {settings.serving_url} does not answer ({type(error).__name__}).", "Start it by `braid up`."
        ) from None
    if not answer.is_success:
        refusal = answer.json()
        raise ServiceError(refusal.get("error", answer.text), refusal.get("cure", "See the log serving.log."))
    return answer.json()


def _parts(settings: Any, declared: Any, entity_id: int | str) -> dict[str, Any]:
    """Returns the data of an entity in the online store, in a form for people."""
    from features.instants import rfc3339
    from features.packed import HistoryView, encode
    from features.windows import floor_ms
    from store.server import open_store

    reading = open_store(settings).read(declared, [entity_id])
    group, [parts] = reading.group, reading.parts
    stored: dict[str, Any] = {"version": group.fingerprint, "batch": None, "tiles": []}
    if value := parts.batch:
        features = {
            feature.name: {"collapsed": view.collapsed, "tail_hops": len(view.hop_starts_ms)}
            for feature, view in zip(group.features, value.features, strict=True)
        }
        size = None if isinstance(value, HistoryView) else len(encode(value))
        stored["batch"] = {"batch_end": rfc3339(value.batch_end_ms), "bytes": size, "features": features}
    for tile in sorted(parts.tiles, key=lambda tile: tile.first_ms):
        start_ms = floor_ms(tile.first_ms, group.tile_ms)
        partials = dict(zip(group.feature_names, tile.partials, strict=True))
        stored["tiles"].append({"start": rfc3339(start_ms), "last_event": rfc3339(tile.last_ms), "partials": partials})
    if parts.faults:
        stored["faults"] = list(parts.faults)
    return stored


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # an id and a text stand as they are, also [brackets] and :colons:
    for row in rows:
        provenance, batch = row["provenance"], row["parts"]["batch"]
        title = f"{_shown(row['id'])} as of {provenance['as_of']}"
        table = Table("feature", "value", "batch part", title=title, title_justify="left")
        for name, value in row["features"].items():
            part = batch["features"][name] if batch else None
            shown = "–" if part is None else f"{_short(part['collapsed'])} + {part['tail_hops']} tail hops"
            table.add_row(name, "–" if value is None else str(value), shown)
        console.print(table)
        console.print(
            f"{_layers(provenance)} · {provenance['tiles_merged']} of {len(row['parts']['tiles'])} speed tiles merged · "
            f"newest event {provenance['newest_event'] or 'none'} · {'degraded: ' + '; '.join(provenance['degraded_reasons']) if provenance['degraded'] else 'exact'}"
            + (f" · no value: {', '.join(provenance['missing'])}" if provenance["missing"] else "")
        )


def _layers(provenance: dict[str, Any]) -> str:
    """Returns in words what the tiles were merged with."""
    return "kappa" if provenance["architecture"] == "kappa" else f"batch_end {provenance['batch_end'] or 'none'}"


def _short(partial: Any) -> str:
    return f"{len(partial)} hashes" if isinstance(partial, list) and len(partial) > 2 else str(partial)


def _shown(entity_id: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in entity_id.items()) if isinstance(entity_id, dict) else str(entity_id)
