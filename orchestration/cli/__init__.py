"""The command line `braid`.

Projects (init), services (up, down, status, plan, doctor), data (load, replay, backfill, forget), answers (features, predict, consistency),
models (models, training-set, train, promote), demo and benchmarks (demo, compare, bench). Every command has `--json`, and every command except init
has `--home`. An error is shown as a sentence of cause and a sentence of cure.
"""

from __future__ import annotations

import sys

import typer

from infra import gateway
from orchestration.cli import answers, data, forget, jobs, models, services
from orchestration.cli.compare import compare
from orchestration.cli.console import Context, HomeOption, ProjectOption, errors_as_sentences
from orchestration.cli.init import init

app = typer.Typer(
    name="braid", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="A real-time feature platform: a feature is declared once, and batch, stream, request and training set compute the same value.",
)  # fmt: skip


@app.callback()
def _deployment(context: typer.Context, home: HomeOption = None, project: ProjectOption = None) -> None:
    context.obj = Context(home, project)


for command in (
    init, services.up, services.down, services.status, services.plan, services.doctor, data.load, data.replay, data.backfill, forget.forget,
    answers.features, answers.predict, answers.consistency, models.models, models.training_set, models.train, models.promote, jobs.demo,
    compare, jobs.bench,
):  # fmt: skip
    app.command()(errors_as_sentences(command))


def main() -> None:
    """Runs the command line."""
    gateway.allow()
    sys.exit(app())
