"""The command line `braid`.

Services (up, down, status, doctor), data (load, replay, backfill, forget), answers (features, predict, consistency), models (models, promote)
and the main job (demo, bench). Every command has `--json` and `--home`; an error is one sentence of cause, one of cure.
"""

from __future__ import annotations

import sys

import typer

from orchestration.cli import answers, data, forget, jobs, models, services
from orchestration.cli.console import Context, HomeOption, ProjectOption, told

app = typer.Typer(
    name="braid", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Features declared once: batch, speed, merge and training set, compiled from one declaration and proven equal.",
)  # fmt: skip


@app.callback()
def _deployment(context: typer.Context, home: HomeOption = None, project: ProjectOption = None) -> None:
    context.obj = Context(home, project)


for command in (
    services.up, services.down, services.status, services.plan, services.doctor, data.load, data.replay, data.backfill, forget.forget, answers.features, answers.predict,
    answers.consistency, models.models, models.promote, jobs.demo, jobs.bench,
):  # fmt: skip
    app.command()(told(command))


def main() -> None:
    """Runs the command line."""
    sys.exit(app())
