"""`braid models` and `braid promote`: where each version comes from, and which one answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from infra.errors import InputError, ServiceError
from infra.settings import Settings
from orchestration.cli.console import HomeOption, JsonOption, deployment_of, note, print_json

ModelOption = Annotated[str | None, typer.Option("--model", help="Model of the project. Default: the first.", show_default=False)]


def models(
    context: typer.Context,
    training_set: Annotated[int | None, typer.Option("--training-set", help="List only the versions that were trained on this Delta version of the training set.", show_default=False)] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:  # fmt: skip
    """List the versions of a model: alias, AUC, training set, declaration, code, and the decision of the gate."""
    from models.registry import RegisteredVersion, registered_versions

    project, settings = deployment_of(context, home)
    name = project.model(model).name
    found: list[RegisteredVersion] = _asked(settings, lambda: registered_versions(settings, name))
    if training_set is not None:
        found = [one for one in found if one.tags.get("training_set_version") == str(training_set)]
    rows: list[dict[str, Any]] = [
        {
            "version": one.version,
            "aliases": list(one.aliases),
            "run_id": one.run_id,
            **{tag: value for tag, value in one.tags.items() if tag != "declaration"},
        }
        for one in found
    ]
    if as_json:
        print_json({"model": name, "versions": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "alias", "AUC", "training set", "declaration", "code", "promotion", box=None)
    for row in rows:
        table.add_row(
            row["version"], ", ".join(row["aliases"]), row.get("auc", "")[:6], row.get("training_set_version", ""),
            row.get("group_fingerprint", ""), row.get("code_version", "")[:12], row.get("promotion", ""),
        )  # fmt: skip
    Console().print(table)


def train(
    context: typer.Context,
    model: ModelOption = None,
    served: Annotated[bool, typer.Option("--served", help="Learn from the features as they were served, where BRAID_SERVED_SHARE logs them.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:  # fmt: skip
    """Train a candidate and hold it to the gate, on the views as they are."""
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


def promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Version of the registered model.", show_default=False)],
    model: ModelOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a version the champion without asking the gate. Serving follows within seconds. A rollback is the same command."""
    from models.registry import make_champion, registered_versions

    project, settings = deployment_of(context, home)
    name = project.model(model).name
    known = [one.version for one in _asked(settings, lambda: registered_versions(settings, name))]
    if version not in known:
        raise InputError(f"{name} has no version {version!r}.", f"There are: {', '.join(known) or 'none'}; see `braid models`.")
    _asked(settings, lambda: make_champion(settings, name, version))
    if as_json:
        print_json({"model": name, "champion_version": version})
    else:
        note(f"Version {version} of {name} is the champion.")


def _asked(settings: Settings, ask: Callable[[], Any]) -> Any:
    """What the registry answers; one that is down is told at once, where MLflow's own patience is minutes."""
    from mlflow.exceptions import MlflowException

    from orchestration.running import require

    require(settings, "mlflow")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        return ask()
    except MlflowException as error:
        raise ServiceError(f"MLflow does not answer as it should: {str(error)[:200]}.", "See `braid status`.") from None
