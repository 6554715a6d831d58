"""`braid models`, `training-set`, `train` and `promote`: labels, versions with their origin, and the choice of the champion."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import InputError, ServiceError
from infra.settings import Settings
from orchestration.cli.console import (
    HomeOption,
    JsonOption,
    MapOption,
    ZoneOption,
    deployment_of,
    mapping_of,
    note,
    print_json,
)
from orchestration.cli.data import (
    DayFirstOption,
    DecimalCommaOption,
    DelimiterOption,
    NullOption,
    TimeFormatOption,
    read_options,
)

ModelOption = Annotated[str | None, typer.Option("--model", help="Model of the project. Default: the first.", show_default=False)]


def models(
    context: typer.Context,
    training_set: Annotated[int | None, typer.Option("--training-set", help="List only the versions that were trained on this Delta version of the training set.", show_default=False)] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:  # fmt: skip
    """List the versions of a model: alias, AUC, training set, declaration, code, and the decision of the gate."""
    from models.registry import RegisteredVersion, registered_versions, trained_fingerprint

    project, settings = deployment_of(context, home)
    name = project.model(model).name
    versions: list[RegisteredVersion] = _registry_answer(settings, lambda: registered_versions(settings, name))
    if training_set is not None:
        versions = [entry for entry in versions if entry.tags.get("training_set_version") == str(training_set)]
    rows: list[dict[str, Any]] = [
        {
            "version": entry.version,
            "aliases": list(entry.aliases),
            "run_id": entry.run_id,
            **{tag: value for tag, value in entry.tags.items() if tag != "declaration"},
        }
        for entry in versions
    ]
    if as_json:
        print_json({"model": name, "versions": rows})
        return
    from rich.console import Console
    from rich.table import Table

    from models.evaluation import CRITERIA

    first = CRITERIA[project.model(model).objective][0]
    table = Table("version", "alias", first.words, "fit", "training set", "declaration", "code", "promotion", box=None)
    for row in rows:
        table.add_row(
            row["version"], ", ".join(row["aliases"]), row.get(first.metric, "")[:6], row.get("fit", ""), row.get("training_set_version", ""),
            trained_fingerprint(row) or "", row.get("code_version", "")[:12], row.get("promotion", ""),
        )  # fmt: skip
    Console(markup=False, emoji=False).print(table)  # a reason may name a text of the data


def train(
    context: typer.Context,
    model: ModelOption = None,
    served: Annotated[bool, typer.Option("--served", help="Train on served features, which are logged if BRAID_SERVED_SHARE is set.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:  # fmt: skip
    """Train a candidate on the existing views, and promote it if it passes the gate."""
    from orchestration.backfill import train as run
    from orchestration.quiet import quiet

    project, settings = deployment_of(context, home)
    chosen = project.model(model)
    with quiet(settings.home / "logs" / "backfill.log"):
        report = run(project, settings, chosen, served)
    if as_json:
        print_json({"model": chosen.name, **vars(report)})
    else:
        note(
            f"{chosen.name}: {report.reason}"
            + (f" Champion: version {report.champion_version}." if report.champion_version else "")
        )


def training_set(
    context: typer.Context,
    labels: Annotated[Path | None, typer.Option("--labels", help="File of the model's own labels to load first: CSV, JSON (also .gz) or Parquet.", show_default=False)] = None,
    model: ModelOption = None, mapping: MapOption = None, time_zone: ZoneOption = None, time_format: TimeFormatOption = None,
    day_first: DayFirstOption = None, null: NullOption = None, decimal_comma: DecimalCommaOption = False, delimiter: DelimiterOption = None,
    as_json: JsonOption = False, home: HomeOption = None,
) -> None:  # fmt: skip
    """Build the training set of a model: its labels, with the features of all inputs as of the time of each label."""
    import dagster as dg

    from batch.labels import LABEL
    from batch.load import load_events
    from infra.gateway import command_session
    from models.training_set import build_training_set, training_end_ms
    from orchestration.execution import use_deployment
    from orchestration.materialized import published_ends_ms
    from orchestration.quiet import quiet

    (project, settings), columns = deployment_of(context, home), mapping_of(mapping)
    declared = project.model(model)
    options = read_options(time_zone, time_format, day_first, null, decimal_comma, delimiter)
    if labels is not None and declared.labels is None:
        raise InputError(f"The model {declared.name} takes its labels from events.", "Declare it with outcome=Labels().")
    with quiet(settings.home / "logs" / "training-set.log"):
        spark = command_session(settings, "braid training set")
        loaded = None
        if labels is not None and declared.labels is not None:
            loaded = load_events(spark, settings, declared.labels, labels, columns, options, LABEL)
        use_deployment(settings)
        with dg.DagsterInstance.get() as instance:
            published_ms = published_ends_ms(instance, settings, declared)
        end_ms = training_end_ms(spark, settings, declared, published_ms)
        report = build_training_set(spark, settings, declared, end_ms)
    if as_json:
        print_json({"model": declared.name, "table": declared.training_table, "loaded": loaded, **vars(report)})
        return
    if loaded is not None:
        note(
            f"{loaded.loaded:,} labels loaded or corrected, {loaded.duplicates:,} duplicates, {loaded.quarantined:,} in quarantine."
        )
        for reason, count in loaded.reasons.items():
            note(f"  {count:,} × {reason}")
    positives = "" if report.positives is None else f", {report.positives:,} with label 1"
    note(
        f"{declared.training_table}: {report.rows:,} rows{positives}; {report.train:,} for training, "
        f"{report.evaluation:,} for evaluation."
    )


def promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Version of the registered model.", show_default=False)],
    model: ModelOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a version the champion without the gate. Serving uses it within seconds. The same command rolls back."""
    from models.registry import make_champion, registered_versions

    project, settings = deployment_of(context, home)
    name = project.model(model).name
    known = [entry.version for entry in _registry_answer(settings, lambda: registered_versions(settings, name))]
    if version not in known:
        raise InputError(
            f"{name} has no version {version!r}.", f"The versions are: {', '.join(known) or 'none'}; see `braid models`."
        )
    _registry_answer(settings, lambda: make_champion(settings, name, version))
    if as_json:
        print_json({"model": name, "champion_version": version})
    else:
        note(f"Version {version} of {name} is the champion.")


def _registry_answer(settings: Settings, request: Callable[[], Any]) -> Any:
    """Sends a request to the registry and returns its answer.

    MLflow retries only once, so that a registry that is down is reported at once; MLflow's default retries take minutes.

    Raises:
        ServiceError: MLflow does not run, or answers with an error.
    """
    from mlflow.exceptions import MlflowException

    from orchestration.running import require

    require(settings, "mlflow")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        return request()
    except MlflowException as error:
        raise ServiceError(f"MLflow has answered with an error: {str(error)[:200]}.", "See `braid status`.") from None
